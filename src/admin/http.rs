//! Connections, requests and their bounds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{AdminState, pages};
use crate::metrics;

/// What a server's connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The most connections at once.
    pub(super) connections: usize,
    /// From the start of a request to the end of its headers; also the longest idle time of a
    /// connection that is kept.
    pub(super) headers_within: Duration,
    /// The longest life of a connection, so that slow readers cannot hold all of them.
    pub(super) lifetime: Duration,
}

/// Room for several scrapers, probes and people.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    headers_within: Duration::from_secs(10),
    lifetime: Duration::from_secs(60),
};

/// The longest request without its body, in bytes.
const REQUEST_BYTES: usize = 16 * 1024;

/// The most header lines of a request.
const REQUEST_HEADERS: usize = 64;

/// How long to wait after an accept failed, as it does while no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Answers HTTP on `listener` until the future is dropped, which also ends every connection.
pub async fn serve(listener: TcpListener, state: AdminState) {
    serve_within(BOUNDS, listener, state).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, state: AdminState) {
    let state = Arc::new(state);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= bounds.connections {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&state), bounds));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<AdminState>, bounds: Bounds) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &state, Instant::now());
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers_within)
        .max_buf_size(REQUEST_BYTES)
        .max_headers(REQUEST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(bounds.lifetime, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection failed"),
        Err(_) => tracing::debug!("an HTTP connection was open for too long"),
    }
}

fn respond<B>(request: &Request<B>, state: &AdminState, now: Instant) -> Response<Full<Bytes>> {
    let Some(page) = Page::at(request.uri().path()) else {
        let text = "there are /, /metrics, /healthz and /readyz\n".to_owned();
        return response(StatusCode::NOT_FOUND, PLAIN_TEXT, text);
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let text = "only GET and HEAD\n".to_owned();
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN_TEXT, text);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match page {
        Page::Status => response(StatusCode::OK, PLAIN_TEXT, pages::status(state, now)),
        Page::Metrics => metrics_response(state, now),
        // That this is answered at all is what it says.
        Page::Health => response(StatusCode::OK, PLAIN_TEXT, "ok\n".to_owned()),
        Page::Readiness => match pages::readiness(&state.snapshots()) {
            Ok(text) => response(StatusCode::OK, PLAIN_TEXT, text),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, why),
        },
    }
}

/// What there is to see.
#[derive(Debug, Clone, Copy)]
enum Page {
    Status,
    Metrics,
    Health,
    Readiness,
}

impl Page {
    fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Status),
            "/metrics" => Some(Self::Metrics),
            "/healthz" => Some(Self::Health),
            "/readyz" => Some(Self::Readiness),
            _ => None,
        }
    }
}

fn metrics_response(state: &AdminState, now: Instant) -> Response<Full<Bytes>> {
    match state.metrics.render(&state.snapshots(), now) {
        Ok(text) => response(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            let text = "the metrics could not be written\n".to_owned();
            response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_TEXT, text)
        }
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
