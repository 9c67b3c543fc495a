//! Whole files: what they mean, and what is said about those that mean nothing.

use proptest::prelude::*;

use super::*;
use crate::core::policy::{Balance, MonotonicReads, OnNoReplica, ReadAfterWrite, Transactions};
use crate::core::statement::Consistency;

mod authentication;
mod encryption;
mod refused;

/// An environment with a few fixed variables.
struct Fixed;

impl Environment for Fixed {
    fn value_of(&self, name: &str) -> Option<String> {
        let value = match name {
            "APP_PASSWORD" => "app-secret",
            "REPORT_PASSWORD" => "report-secret",
            "MONITOR_PASSWORD" => "monitor-secret",
            "LOOKUP_PASSWORD" => "lookup-secret",
            "TOKEN_SECRET" => "token-secret-of-some-length",
            "PORT" => "7001",
            "BAD_PORT" => "seventy",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

#[track_caller]
fn accepted(text: &str) -> Config {
    parse(text, "pgweir.yaml", &Fixed).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn report(text: &str) -> String {
    match parse(text, "pgweir.yaml", &Fixed) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

const SMALLEST: &str = "
clusters: { main: { nodes: [{ host: db1, port: 5432 }, { host: db2, port: 5433 }] } }
users: [{ name: app, password: p1 }, { name: other, password: p2 }]
";

fn example(name: &str) -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    load(&folder.join(name), &Fixed).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_example_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["full.yaml", "minimal.yaml"]);
    for name in names {
        assert_eq!(example(&name).clusters.len(), 1, "{name}");
    }
}

#[test]
fn the_smallest_file_has_the_defaults_of_the_contract() {
    let config = accepted(SMALLEST);
    assert_eq!(
        config.listen,
        [ListenAddress::Tcp("127.0.0.1:6432".parse().unwrap())]
    );
    assert_eq!(config.http, None);
    assert!(config.workers >= 1);
    assert_eq!(config.auth_method, AuthMethod::ScramSha256);
    let limits = ClientLimits {
        max_clients: 10_000,
        startup_timeout: Duration::from_secs(15),
        max_message_bytes: 1 << 30,
    };
    assert_eq!(config.limits, limits);
    let log = LogConfig {
        format: LogFormat::Text,
        level: LogLevel::Info,
    };
    assert_eq!(config.log, log);

    let main = &config.clusters[0];
    assert_eq!(&*main.name, "main");
    assert_eq!(main.databases, [DatabasePattern::AllOthers]);
    let node = NodeConfig {
        name: Arc::from("db2:5433"),
        host: "db2".to_owned(),
        port: 5433,
        zone: None,
        weight: 1,
    };
    assert_eq!(main.nodes[1], node);
    let monitor = MonitorConfig {
        user: "app".to_owned(),
        password: Secret::new("p1"),
        database: "postgres".to_owned(),
    };
    assert_eq!(main.monitor, monitor);
    let pool = PoolConfig {
        size: 20,
        mode: PoolMode::Transaction,
        idle_timeout: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(3600),
        checkout_timeout: Duration::from_secs(5),
        option_names: OptionNames::Own,
        sequence_numbers: SequenceNumbers::OnceAsked,
    };
    assert_eq!(main.pool, pool);
    assert_eq!(*main.policies, default_policies());
    assert!(main.user_policies.is_empty());
}

fn default_policies() -> Policies {
    Policies {
        routing: RoutingPolicy {
            max_staleness: Duration::from_secs(10),
            max_lag_bytes: 64 << 20,
            balance: Balance::LeastLoaded,
            transactions: Transactions::Primary,
            zone: None,
            read_functions: vec![],
            write_functions: vec![],
            primary_tables: vec![],
        },
        consistency: ConsistencyPolicy {
            default: Consistency::Session,
            read_after_write: ReadAfterWrite::Position,
            max_staleness: None,
            wait: Duration::from_millis(10),
            max_wait: Duration::from_secs(1),
            spill_limit: 100,
            monotonic_reads: MonotonicReads::Ordinary,
            audit_one_in: None,
            on_no_replica: OnNoReplica::Primary,
        },
    }
}

#[test]
fn the_full_example_states_the_defaults() {
    let config = example("full.yaml");
    let smallest = accepted(SMALLEST);
    assert_eq!(config.listen, smallest.listen);
    assert_eq!(config.limits, smallest.limits);
    assert_eq!(config.log, smallest.log);
    assert_eq!(config.auth_method, smallest.auth_method);
    let mut expected = smallest.causality.clone();
    expected.secret = Some(Secret::new("token-secret-of-some-length"));
    assert_eq!(config.causality, expected);
    let main = &config.clusters[0];
    assert_eq!(main.pool, smallest.clusters[0].pool);
    assert_eq!(main.server_tls, smallest.clusters[0].server_tls);
    assert!(config.client_tls.acceptor().is_none());
    assert_eq!(main.databases, smallest.clusters[0].databases);
    let mut expected = default_policies();
    expected.routing.zone = Some(Arc::from("eu-1"));
    expected.routing.max_lag_bytes = 128 << 20;
    assert_eq!(*main.policies, expected);
    assert_eq!(main.monitor.password.expose(), "monitor-secret");
    let plain = UserPassword::Plain(Secret::new("report-secret"));
    assert_eq!(config.users["report"].password, plain);
}

#[test]
fn a_user_overrides_the_cluster_and_the_cluster_overrides_the_top() {
    let config = accepted(
        "
consistency: { default: latest, wait: 20ms, on_no_replica: error }
routing: { balance: random, max_lag: 1MiB, read_functions: [f, s.g] }
clusters:
  main:
    nodes: [{ host: h, port: 1 }]
    consistency: { default: eventual, wait: 30ms, max_staleness: 5s }
    routing: { balance: round_robin, read_functions: [] }
  other:
    databases: [x]
    nodes: [{ host: h, port: 2 }]
users:
  - { name: plain, password: p }
  - name: special
    password: p
    consistency: { default: primary, max_staleness: none }
    routing: { balance: least_loaded }
",
    );
    let modes = |cluster: usize, user: &str| {
        let policies = config.clusters[cluster].policies_for(user);
        let (consistency, routing) = (policies.consistency, &policies.routing);
        (
            consistency.default,
            consistency.wait.as_millis(),
            routing.balance,
        )
    };
    assert_eq!(
        modes(0, "plain"),
        (Consistency::Eventual, 30, Balance::RoundRobin)
    );
    assert_eq!(
        modes(0, "special"),
        (Consistency::Primary, 30, Balance::LeastLoaded)
    );
    assert_eq!(
        modes(1, "plain"),
        (Consistency::Latest, 20, Balance::Random)
    );
    assert_eq!(
        modes(1, "special"),
        (Consistency::Primary, 20, Balance::LeastLoaded)
    );
    let main = &config.clusters[0];
    let bound = |user| main.policies_for(user).consistency.max_staleness;
    assert_eq!(bound("plain"), Some(Duration::from_secs(5)));
    assert_eq!(bound("special"), None);
    assert!(main.policies.routing.read_functions.is_empty());
    assert_eq!(
        config.clusters[1].policies.routing.read_functions,
        ["f", "s.g"]
    );
    for policies in [main.policies_for("plain"), main.policies_for("special")] {
        assert_eq!(policies.routing.max_lag_bytes, 1 << 20);
        assert_eq!(policies.consistency.on_no_replica, OnNoReplica::Error);
    }
}

#[test]
fn written_values_arrive() {
    let config = accepted(
        r#"
listen: ["127.0.0.1:6432", "[::1]:6432"]
http: 127.0.0.1:0
workers: 3
clusters:
  main:
    databases: [a, "b c"]
    nodes: [{ host: "::1", port: "${PORT}", name: n, zone: z, weight: 0 }]
    monitor: { user: m, password: "x$${y}z" }
    pool: { size: 1, idle_timeout: 1s, max_lifetime: 2m, checkout_timeout: 250ms, option_names: shared, sequence_numbers: always }
    discover: false
users: [{ name: app }]
auth: { method: trust }
consistency: { monotonic_reads: strict, read_after_write: window, window: 20s, max_wait: 2s, spill_limit: 20%, audit_one_in: 500 }
limits: { max_clients: 5, startup_timeout: 1s, max_message: 1MiB, idle_in_transaction: none }
log: { format: json, level: trace }
"#,
    );
    assert_eq!(
        config.listen[1],
        ListenAddress::Tcp("[::1]:6432".parse().unwrap())
    );
    assert_eq!(config.http, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(config.workers, 3);
    let main = &config.clusters[0];
    let named = |name: &str| DatabasePattern::Name(name.to_owned());
    assert_eq!(main.databases, [named("a"), named("b c")]);
    assert_eq!((main.nodes[0].port, main.nodes[0].weight), (7001, 0));
    assert_eq!(main.nodes[0].zone.as_deref(), Some("z"));
    assert_eq!(main.monitor.password.expose(), "x${y}z");
    assert_eq!(main.pool.checkout_timeout, Duration::from_millis(250));
    assert_eq!(main.pool.option_names, OptionNames::Shared);
    assert_eq!(main.pool.sequence_numbers, SequenceNumbers::Always);
    assert_eq!(config.users["app"].password, UserPassword::None);
    assert_eq!(config.users["app"].server_password, None);
    let guard = main.policies.consistency.read_after_write;
    assert_eq!(guard, ReadAfterWrite::Window(Duration::from_secs(20)));
    let monotonic = main.policies.consistency.monotonic_reads;
    assert_eq!(monotonic, MonotonicReads::Strict);
    let audit = main.policies.consistency.audit_one_in;
    assert_eq!(audit.map(std::num::NonZero::get), Some(500));
    assert_eq!(config.limits.max_message_bytes, 1 << 20);
    assert_eq!(config.log.level, LogLevel::Trace);
}

#[test]
fn the_monitor_takes_the_password_of_a_listed_user() {
    let text = SMALLEST.replace("main: {", "main: { monitor: { user: other },");
    assert_eq!(accepted(&text).clusters[0].monitor.password.expose(), "p2");
}

#[test]
fn a_configuration_does_not_print_its_secrets() {
    let printed = format!("{:?}", example("full.yaml"));
    assert!(!printed.contains("-secret"), "{printed}");
    assert!(printed.contains("***"));
}

#[test]
fn a_file_that_is_not_there_or_too_long_is_one_fault() {
    let absent = load(Path::new("/nonexistent/pgweir.yaml"), &Fixed).unwrap_err();
    assert!(
        absent
            .to_string()
            .starts_with("/nonexistent/pgweir.yaml: cannot be read: ")
    );
    let long = format!("{SMALLEST}#{}", "x".repeat(1024 * 1024));
    assert_eq!(report(&long), "pgweir.yaml: is longer than 1MiB");
}

proptest! {
    /// A line of a good file is damaged in every way a hand slips, and the report is searched for
    /// the password.
    #[test]
    fn no_fault_shows_a_password(
        around in "[ -~]{0,6}",
        slip in 0_usize..10,
        quote in prop::sample::select(vec!["", "'", "\""]),
    ) {
        const MARKER: &str = "hunter2hunter2";
        let password = format!("{around}{MARKER}{around}");
        let user = match slip {
            0 => format!("{{ name: app, password: {quote}{password}{quote} }}"),
            1 => format!("{{ name: app, pasword: {quote}{password}{quote} }}"),
            2 => format!("{{ name: app, password {MARKER} }}"),
            3 => format!("{{ name: app, {MARKER} }}"),
            4 => format!("{{ name: app, password: [{quote}{password}{quote}] }}"),
            5 => format!("{quote}app:{password}{quote}"),
            6 => format!("{{ name: app, password: {{ {MARKER}: x }} }}"),
            7 => format!("{{ name: app, pasword: 'a${{{MARKER}}}b' }}"),
            8 => format!("{{ name: app, password: ['a${{{MARKER}}}b'] }}"),
            _ => format!("{{ name: app, password: 'a${{{MARKER}}}b' }}"),
        };
        let text = format!(
            "listen: nowhere\nclusters: {{ main: {{ nodes: [{{ host: h, port: 1 }}] }} }}\nusers:\n  - {user}\n"
        );
        let shown = parse(&text, "f", &Fixed).unwrap_err().to_string();
        prop_assert!(!shown.contains(MARKER), "{}\n{}", text, shown);
    }
}
