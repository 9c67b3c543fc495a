//! Clients whose password stands nowhere in the proxy: SCRAM verifiers in the file, roles that are
//! looked up on the database, and the clients' own keys towards the nodes.

#![cfg(test)]

mod harness;

use harness::scram::verifier;
use harness::{LIMIT, Proxy, cluster, eventually};
use pgweir::sandbox::LocalCluster;
use tokio_postgres::{Client, Config, NoTls};

/// A function that finds every role, for the monitor's role, as PgBouncer's manual has it.
const FIND: &str = "CREATE FUNCTION find_role(INOUT name text, OUT stored text) LANGUAGE sql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
        SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = name AND rolcanlogin
    $$; REVOKE ALL ON FUNCTION find_role FROM PUBLIC; GRANT EXECUTE ON FUNCTION find_role TO pgweir";

/// Looks everybody up as the monitor's role; `more` goes into `auth`.
fn looking_up(more: &str) -> String {
    format!(
        "users: []\nauth: {{ query: 'SELECT * FROM find_role($1)', lookup: {{ database: app }}, {more} }}"
    )
}

/// A cluster of its own with the function, and a role `alice` with the password `first`.
async fn with_alice(replicas: usize) -> LocalCluster {
    let cluster = cluster(replicas).await;
    run(&cluster, FIND).await;
    run(&cluster, "CREATE ROLE alice LOGIN PASSWORD 'first'").await;
    cluster
}

/// Runs something on the primary and waits until every replica has it.
async fn run(cluster: &LocalCluster, sql: &str) {
    cluster.superuser_sql(cluster.primary(), sql).await.unwrap();
    for replica in cluster.replicas() {
        cluster.wait_for_replay(replica).await.unwrap();
    }
}

/// A session, or the SQLSTATE with which there is none.
async fn log_in(proxy: &Proxy, user: &str, password: &str) -> Result<Client, String> {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(proxy.port())
        .user(user)
        .password(password)
        .dbname("app");
    match tokio::time::timeout(LIMIT, config.connect(NoTls))
        .await
        .unwrap()
    {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            Ok(client)
        }
        Err(error) => Err(error
            .code()
            .map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())),
    }
}

/// Which role the session has where the statement runs, and the node's port.
const WHO: &str = "SELECT current_user::text, inet_server_port()";

/// The same on the primary.
const WHO_ON_PRIMARY: &str =
    "/*pgweir_route='primary'*/ SELECT current_user::text, inet_server_port()";

/// The session is `role` on the primary and, once reads go there, on the replica.
async fn is_served_everywhere(session: &Client, cluster: &LocalCluster, role: &str) {
    let asked = session.query_one(WHO_ON_PRIMARY, &[]).await.unwrap();
    let on = |node| i32::from(cluster.port(node));
    assert_eq!((asked.get(0), asked.get(1)), (role, on(0)));
    eventually("the session reads from the replica", || async {
        let asked = session.query_one(WHO, &[]).await.unwrap();
        assert_eq!(asked.get::<_, &str>(0), role);
        asked.get::<_, i32>(1) == on(1)
    })
    .await;
}

/// Ends every server connection of `alice`, on every node.
async fn disconnect(cluster: &LocalCluster) {
    for node in cluster.nodes() {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'alice'";
        cluster.superuser_sql(node, sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_is_looked_up_is_served_by_every_node_with_its_own_keys() {
    let cluster = with_alice(1).await;
    run(
        &cluster,
        "CREATE ROLE bob LOGIN PASSWORD 'second'; CREATE ROLE nologin PASSWORD 'x';
         CREATE ROLE nopassword LOGIN",
    )
    .await;
    let proxy = Proxy::start(&cluster, &looking_up("")).await;
    for (user, password) in [("alice", "first"), ("bob", "second")] {
        let session = log_in(&proxy, user, password).await.unwrap();
        is_served_everywhere(&session, &cluster, user).await;
    }
    for (user, password) in [
        ("alice", "second"),
        ("alice", ""),
        ("bob", "first"),
        ("nologin", "x"),
        ("nopassword", ""),
        ("nopassword", "x"),
        ("nobody", "x"),
        ("alice'; DROP ROLE alice; --", "x"),
    ] {
        let refused = log_in(&proxy, user, password).await;
        assert_eq!(refused.err().as_deref(), Some("28P01"), "{user} {password}");
    }
    let stored = cluster
        .superuser_sql(
            0,
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'",
        )
        .await
        .unwrap();
    let stored = stored[0][0].as_deref().unwrap();
    let log = proxy.log();
    for secret in [stored, "first", "second", "SCRAM-SHA-256$"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn a_changed_password_is_noticed_and_sessions_go_on_with_the_new_keys() {
    let cluster = with_alice(1).await;
    let proxy = Proxy::start(&cluster, &looking_up("cache: 1h")).await;
    let old = log_in(&proxy, "alice", "first").await.unwrap();
    is_served_everywhere(&old, &cluster, "alice").await;
    run(&cluster, "ALTER ROLE alice PASSWORD 'changed'").await;
    // The verifier is remembered: this attempt fails, and has the next one look again.
    assert_eq!(
        log_in(&proxy, "alice", "changed").await.err().as_deref(),
        Some("28P01")
    );
    let new = log_in(&proxy, "alice", "changed").await.unwrap();
    assert_eq!(
        log_in(&proxy, "alice", "first").await.err().as_deref(),
        Some("28P01")
    );
    disconnect(&cluster).await;
    for session in [&new, &old] {
        eventually("the session is served", || async {
            session.query_one(WHO, &[]).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_session_whose_keys_no_node_takes_is_told_so_and_goes_on_after_a_login() {
    let cluster = with_alice(1).await;
    let proxy = Proxy::start(&cluster, &looking_up("cache: 1h")).await;
    let old = log_in(&proxy, "alice", "first").await.unwrap();
    is_served_everywhere(&old, &cluster, "alice").await;
    run(&cluster, "ALTER ROLE alice PASSWORD 'changed'").await;
    disconnect(&cluster).await;
    let refused = old.query_one(WHO_ON_PRIMARY, &[]).await;
    // The first statement may meet the connection that has just ended.
    let refused = match refused {
        Err(error) if error.code().is_some_and(|code| code.code() == "28P01") => Err(error),
        _ => old.query_one(WHO_ON_PRIMARY, &[]).await,
    };
    let refused = refused.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "28P01");
    assert!(
        refused.message().contains("no longer accepts the keys"),
        "{refused:?}"
    );
    // A node has refused the keys: the role is looked up again at once.
    log_in(&proxy, "alice", "changed").await.unwrap();
    is_served_everywhere(&old, &cluster, "alice").await;
}

#[tokio::test]
async fn a_dropped_role_is_refused_when_its_time_is_over() {
    let cluster = with_alice(0).await;
    let proxy = Proxy::start(&cluster, &looking_up("cache: 1s")).await;
    log_in(&proxy, "alice", "first").await.unwrap();
    run(&cluster, "DROP ROLE alice").await;
    eventually("the role is not let in any more", || async {
        log_in(&proxy, "alice", "first").await.err().as_deref() == Some("28P01")
    })
    .await;
    run(&cluster, "CREATE ROLE alice LOGIN PASSWORD 'again'").await;
    eventually("the new role of that name is let in", || async {
        log_in(&proxy, "alice", "again").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn roles_are_found_on_a_replica_while_there_is_no_primary() {
    let cluster = with_alice(1).await;
    let patient = format!(
        "{}\nrouting: {{ max_staleness: 1m }}",
        looking_up("cache: 0s")
    );
    let proxy = Proxy::start(&cluster, &patient).await;
    let session = log_in(&proxy, "alice", "first").await.unwrap();
    is_served_everywhere(&session, &cluster, "alice").await;
    cluster.kill_node(0).await.unwrap();
    eventually("the replica lets the role in", || async {
        let Ok(session) = log_in(&proxy, "alice", "first").await else {
            return false;
        };
        let read = "/*pgweir_consistency='eventual'*/ SELECT current_user";
        session.query_one(read, &[]).await.is_ok()
    })
    .await;
    assert_eq!(
        log_in(&proxy, "alice", "wrong").await.err().as_deref(),
        Some("28P01")
    );
    cluster.kill_node(1).await.unwrap();
    eventually("nobody can be asked", || async {
        log_in(&proxy, "alice", "first").await.err().as_deref() == Some("57P03")
    })
    .await;
}

#[tokio::test]
async fn a_verifier_in_the_file_lets_in_and_passes_through_with_any_number_of_iterations() {
    let cluster = cluster(1).await;
    for (role, iterations) in [("few", 1), ("usual", 4096), ("many", 20_000)] {
        let text = verifier("right", iterations);
        run(
            &cluster,
            &format!("CREATE ROLE {role} LOGIN PASSWORD '{text}'"),
        )
        .await;
        let file = |more: &str| {
            format!(
                "users: [{{ name: {role}, password: '{text}' {more} }}]\nauth: {{ mode: passthrough }}"
            )
        };
        let proxy = Proxy::start(&cluster, &file("")).await;
        let session = log_in(&proxy, role, "right").await.unwrap();
        is_served_everywhere(&session, &cluster, role).await;
        assert_eq!(
            log_in(&proxy, role, "wrong").await.err().as_deref(),
            Some("28P01")
        );
        assert!(!proxy.log().contains("SCRAM-SHA-256$"));
        // The same password with another salt: the keys that the client has proved do not fit.
        run(&cluster, &format!("ALTER ROLE {role} PASSWORD 'right'")).await;
        let apart = Proxy::start(&cluster, &file("")).await;
        assert_eq!(
            log_in(&apart, role, "right").await.err().as_deref(),
            Some("28P01")
        );
        let stored = Proxy::start(&cluster, &file(", server_password: right")).await;
        let session = log_in(&stored, role, "right").await.unwrap();
        is_served_everywhere(&session, &cluster, role).await;
        assert_eq!(
            log_in(&stored, role, "wrong").await.err().as_deref(),
            Some("28P01")
        );
    }
}

#[tokio::test]
async fn a_password_that_the_client_sends_is_checked_against_what_the_database_stores() {
    let cluster = with_alice(1).await;
    let proxy = Proxy::start(&cluster, &looking_up("method: password, cache: 1h")).await;
    let session = log_in(&proxy, "alice", "first").await.unwrap();
    is_served_everywhere(&session, &cluster, "alice").await;
    for (user, password) in [("alice", "wrong"), ("nobody", "first")] {
        let refused = log_in(&proxy, user, password).await;
        assert_eq!(refused.err().as_deref(), Some("28P01"), "{user}");
    }
    // Remembered, and still the first attempt succeeds: the client need not begin anew.
    run(&cluster, "ALTER ROLE alice PASSWORD 'changed'").await;
    log_in(&proxy, "alice", "changed").await.unwrap();
    assert_eq!(
        log_in(&proxy, "alice", "first").await.err().as_deref(),
        Some("28P01")
    );
}

#[tokio::test]
async fn md5_hashes_let_md5_clients_in_and_lead_to_nodes_that_ask_for_md5() {
    let cluster = cluster(1).await;
    for node in cluster.nodes() {
        let hba = cluster.superuser_sql(node, "SHOW hba_file").await.unwrap();
        let hba = hba[0][0].clone().unwrap();
        let text = std::fs::read_to_string(&hba).unwrap();
        let line = "host all alice 127.0.0.1/32 md5\n";
        std::fs::write(&hba, format!("{line}{text}")).unwrap();
        cluster
            .superuser_sql(node, "SELECT pg_reload_conf()")
            .await
            .unwrap();
    }
    run(&cluster, FIND).await;
    run(
        &cluster,
        "SET password_encryption = 'md5'; CREATE ROLE alice LOGIN PASSWORD 'first'",
    )
    .await;
    let proxy = Proxy::start(&cluster, &looking_up("method: md5, cache: 1h")).await;
    let session = log_in(&proxy, "alice", "first").await.unwrap();
    is_served_everywhere(&session, &cluster, "alice").await;
    for (user, password) in [
        ("alice", "wrong"),
        ("nobody", "first"),
        ("pgweir", "pgweir"),
    ] {
        let refused = log_in(&proxy, user, password).await;
        assert_eq!(refused.err().as_deref(), Some("28P01"), "{user}");
    }
    run(
        &cluster,
        "SET password_encryption = 'md5'; ALTER ROLE alice PASSWORD 'changed'",
    )
    .await;
    log_in(&proxy, "alice", "changed").await.unwrap();
    // A plain password in the file does for both sides, as ever.
    let listed = Proxy::start(
        &cluster,
        "users: [{ name: alice, password: changed }]\nauth: { method: md5 }",
    )
    .await;
    log_in(&listed, "alice", "changed").await.unwrap();
    assert_eq!(
        log_in(&listed, "alice", "first").await.err().as_deref(),
        Some("28P01")
    );
}

#[tokio::test]
async fn a_query_that_cannot_work_keeps_out_only_those_who_are_looked_up() {
    let cluster = with_alice(0).await;
    // The monitor's role may not read pg_authid.
    let proxy = Proxy::start(&cluster, "auth: { lookup: {} }").await;
    assert_eq!(
        log_in(&proxy, "alice", "first").await.err().as_deref(),
        Some("57P03")
    );
    log_in(&proxy, "app", "app").await.unwrap();
    assert!(
        proxy.log().contains("could not look up a role"),
        "{}",
        proxy.log()
    );
    assert!(proxy.log().contains("permission denied"), "{}", proxy.log());
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_asked_for_like_one_that_does() {
    use harness::raw::{Raw, message, startup};

    let cluster = with_alice(0).await;
    let text = verifier("first", 7000);
    run(&cluster, &format!("ALTER ROLE alice PASSWORD '{text}'")).await;
    let proxy = Proxy::start(&cluster, &looking_up("")).await;
    // What the first login teaches of iterations.
    log_in(&proxy, "alice", "first").await.unwrap();
    let mut heard = Vec::new();
    for user in ["alice", "nobody", "nobody"] {
        let mut raw = Raw::connect(proxy.port()).await;
        raw.send(&startup(&[("user", user), ("database", "app")]))
            .await;
        let offer = raw.next(LIMIT).await.unwrap();
        let first = b"n,,n=,r=abcdefgh";
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        let body = [&b"SCRAM-SHA-256\0"[..], &length, first].concat();
        raw.send(&message(b'p', &body)).await;
        let (tag, challenge) = raw.next(LIMIT).await.unwrap();
        assert_eq!(tag, b'R');
        let challenge = String::from_utf8(challenge[4..].to_vec()).unwrap();
        let [nonce, salt, iterations] = challenge.split(',').collect::<Vec<_>>()[..] else {
            panic!("{challenge}");
        };
        let last = format!("c=biws,{nonce},p={}=", "A".repeat(43));
        raw.send(&message(b'p', last.as_bytes())).await;
        let end = raw.until_end().await;
        assert_eq!(end.sqlstates(), ["28P01"]);
        let told = end.errors(b'M')[0].replace(user, "?");
        heard.push((
            offer,
            salt.len(),
            iterations.to_owned(),
            told,
            salt.to_owned(),
        ));
    }
    let shape = |at: usize| {
        let (offer, salt, iterations, told, _) = &heard[at];
        (offer.clone(), *salt, iterations.clone(), told.clone())
    };
    assert_eq!(shape(0), shape(1));
    assert_eq!(heard[1], heard[2], "the salt is the same at every attempt");
    assert_eq!(heard[0].2, "i=7000");
}
