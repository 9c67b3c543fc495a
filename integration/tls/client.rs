//! Clients: psql, and tokio-postgres over the proxy's own TLS library.

use std::io;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::Arc;

use pgweir::sandbox::SearchPath;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, client};

use super::authority::Authority;

/// Runs psql with this connection string and these arguments; standard output has what it reads.
pub(crate) fn psql(connection: &str, arguments: &[&str]) -> Output {
    let first = ["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", connection];
    program("psql", &[&first, arguments].concat())
}

/// Runs one of PostgreSQL's programs.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Output {
    let binaries = SearchPath::from_environment().find().unwrap();
    Command::new(binaries.join(name))
        .args(arguments)
        .env("PGCONNECT_TIMEOUT", "20")
        // No file of whoever runs the tests has a say.
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

/// What psql prints, or why it fails.
pub(crate) fn answer(connection: &str, sql: &str) -> Result<String, String> {
    let output = psql(connection, &["-c", sql]);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// TLS for tokio-postgres.
#[derive(Clone)]
pub(crate) struct Tls(pub(crate) TlsConnector);

impl Tls {
    /// Trusts `authority`; offers `protocols`.
    pub(crate) fn new(authority: &Authority, protocols: &[&[u8]]) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self(TlsConnector::from(Arc::new(config)))
    }
}

/// An encrypted connection.
pub(crate) type Encrypted = client::TlsStream<TcpStream>;

/// A stream that says nothing of channel binding.
pub(crate) struct Stream<S>(client::TlsStream<S>);

/// What can be encrypted.
pub(crate) trait Raw: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Raw for S {}

macro_rules! forward {
    ($self:ident.$method:ident($($argument:ident),*)) => {
        Pin::new(&mut $self.get_mut().0).$method($($argument),*)
    };
}

impl<S: Raw> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        forward!(self.poll_read(context, buffer))
    }
}

impl<S: Raw> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        forward!(self.poll_write(context, bytes))
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        forward!(self.poll_flush(context))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        forward!(self.poll_shutdown(context))
    }
}

impl<S: Raw> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: Raw> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(self.clone())
    }
}

impl<S: Raw> TlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from("localhost").unwrap();
            self.0.connect(name, stream).await.map(Stream)
        })
    }
}
