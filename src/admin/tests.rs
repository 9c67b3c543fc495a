//! The pages as a client on a socket sees them.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http::{Bounds, serve_within};
use super::*;
use crate::config::{Environment, parse};
use crate::core::lsn::Lsn;
use crate::core::router::RouteReason;
use crate::core::snapshot::{Eligibility, NodeId, NodeRole, NodeState, ReplayLag};

struct NoEnvironment;

impl Environment for NoEnvironment {
    fn value_of(&self, _name: &str) -> Option<String> {
        None
    }
}

const CONFIG: &str = "
users: [{ name: u, password: p }]
clusters: { main: { nodes: [{ name: a, host: h, port: 1 }, { name: b, host: h, port: 2 }] } }
";

fn node(place: u16, role: NodeRole) -> NodeState {
    let now = Instant::now();
    let (lag, eligibility) = match role {
        NodeRole::Primary => (ReplayLag::Unknown, Eligibility::NotReplica),
        NodeRole::Unknown => (ReplayLag::Unknown, Eligibility::Unreachable),
        NodeRole::Replica => (
            ReplayLag::Known {
                bytes: 77,
                fresh_as_of: now,
                replay: Lsn(1),
                behind: Duration::ZERO,
                measured_at: now,
            },
            Eligibility::Eligible,
        ),
    };
    NodeState {
        id: NodeId(place),
        name: Arc::from(["a", "b"][usize::from(place)]),
        weight: 1,
        zone: None,
        role,
        incarnation: None,
        lag,
        eligibility,
    }
}

fn state(primary: Option<NodeId>, roles: [NodeRole; 2]) -> AdminState {
    let config = parse(CONFIG, "test.yaml", &NoEnvironment).unwrap();
    let metrics = Metrics::new();
    let snapshot = RoutingSnapshot {
        generation: 1,
        primary,
        nodes: vec![node(0, roles[0]), node(1, roles[1])],
    };
    let cluster = AdminCluster {
        name: Arc::from("main"),
        world: Arc::new(ClusterWorld::new(snapshot, Instant::now())),
        metrics: metrics.cluster(&config.clusters[0]),
    };
    cluster
        .metrics
        .count_query(NodeId(1), NodeRole::Replica, RouteReason::Fresh);
    AdminState {
        metrics,
        clusters: Arc::new(Published::new(vec![cluster])),
    }
}

fn ready_state() -> AdminState {
    state(Some(NodeId(0)), [NodeRole::Primary, NodeRole::Replica])
}

/// Sends `request` to a server of its own and returns all that comes back.
async fn exchange(state: AdminState, request: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, state));
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read all of a request that is too long.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("the server closes the connection in time");
    server.abort();
    String::from_utf8(answer).unwrap()
}

async fn get(state: AdminState, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(state, request.as_bytes()).await
}

#[tokio::test]
async fn each_path_answers_with_its_status() {
    for (method, path, status) in [
        ("GET", "/", "200"),
        ("GET", "/?x=y", "200"),
        ("HEAD", "/metrics", "200"),
        ("GET", "/metrics", "200"),
        ("GET", "/healthz", "200"),
        ("GET", "/readyz", "200"),
        ("GET", "/nothing", "404"),
        ("POST", "/metrics", "405"),
        ("DELETE", "/", "405"),
        ("GET", "//", "404"),
    ] {
        let answer = get(ready_state(), method, path).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let answer = get(ready_state(), "GET", "/metrics").await;
    assert!(
        answer.contains("content-type: application/openmetrics-text"),
        "{answer}"
    );
    assert!(answer.contains("pgweir_node_up{cluster=\"main\",node=\"b\",role=\"replica\"} 1"));
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn readiness_says_which_cluster_has_no_primary_and_why() {
    use NodeRole::{Primary, Replica, Unknown};
    for (primary, roles, line) in [
        (
            None,
            [Unknown, Replica],
            "main: no primary: a is unknown (unreachable), b is replica (eligible)",
        ),
        (
            None,
            [Primary, Primary],
            "main: more than one node says it is the primary: a, b",
        ),
    ] {
        let answer = get(state(primary, roles), "GET", "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.lines().any(|found| found == line), "{answer}");
        let alive = get(state(primary, roles), "GET", "/healthz").await;
        assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
    }
}

#[tokio::test]
async fn the_status_page_shows_role_freshness_and_statements() {
    let answer = get(ready_state(), "GET", "/").await;
    assert!(answer.contains("cluster main, primary a"), "{answer}");
    let cells = |name: &str| -> Vec<String> {
        let row = answer.lines().find(|line| line.starts_with(name));
        row.unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(cells("a ")[..3], ["a", "primary", "not_replica"]);
    let replica = cells("b ");
    assert_eq!(replica[..3], ["b", "replica", "eligible"]);
    assert_eq!(replica[5..], ["77", "B", "1"]);
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_server_goes_on() {
    let mut request = b"GET / HTTP/1.1\r\nX: ".to_vec();
    request.resize(64 * 1024, b'x');
    let answer = exchange(ready_state(), &request).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    let garbage = exchange(ready_state(), b"\x00\x00\x00\x08\x04\xd2\x16\x2f\r\n\r\n").await;
    assert!(!garbage.contains(" 200 "), "{garbage}");
}

#[tokio::test]
async fn clients_that_send_no_request_do_not_keep_others_out() {
    let bounds = Bounds {
        connections: 2,
        headers_within: Duration::from_millis(50),
        lifetime: Duration::from_secs(20),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_within(bounds, listener, ready_state()));
    let mut silent = Vec::new();
    for _ in 0..bounds.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        silent.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for mut stream in silent {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(!rest.contains(" 200 "), "{rest}");
    }
    server.abort();
}
