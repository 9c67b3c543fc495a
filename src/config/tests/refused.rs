//! Files that are refused, with the whole report.

use super::report;

#[track_caller]
fn check(text: &str, expected: &str) {
    let found = report(text);
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn every_fault_of_a_file_is_reported_at_once() {
    check(MANY_FAULTS, MANY_FAULTS_REPORT);
}

const MANY_FAULTS: &str = r#"lisen: 127.0.0.1:6432
http: localhost
workers: 0
clusters:
  main:
    databases: ["*", a, a]
    nodes:
      - { name: a, host: db1, port: 70000 }
      - name: a
        host: db2
        port: ${BAD_PORT}
      - { host: db3, wieght: 2 }
      - { name: c, host: "h:o/st", port: 1 }
      - { name: c, host: h, port: 1 }
      - { name: d, host: h, port: 1 }
      - x
    monitor: { user: nobody }
    pool: { size: many, mode: sesion, idle_timeout: 10 }
    server_tls: { mode: require, ca: /x }
    discover: true
    routing: { transactions: until_wrote, max_lag: 5 }
  second:
    nodes: []
users:
  - { name: app, password: SCRAM-SHA-256$4096:c2FsdA==$a:b }
  - { name: app2, password: 12345 }
  - { name: app2, password: ok }
  - name: r
    password: ok
    routing: { max_staleness: 1s }
auth: { method: cert, query: "select" }
client_tls: { mode: prefer, cert: x }
routing: { balance: least-loaded, read_functions: ["f(int)"] }
consistency:
  default: sesion
  read_after_write: window
  window: 1s
  wait: 5s
  spill_limit: 101%
failover: { promote: manual, hold: 15s, patroni: [x] }
causality: { store: "rediss://:pw@x", key_ttl: 1ms, max_keys: 0, secret: short }
admin_users: [root]
limits: { max_clients: -1, max_message: 2GiB, idle_in_transaction: 5m }
log: { format: xml, level: warning }
"#;

const MANY_FAULTS_REPORT: &str = r"pgweir.yaml:1: lisen: is not a known key
    hint: did you mean `listen`?
pgweir.yaml:2: http: `localhost` is not an IP address with a port
    hint: write it as 127.0.0.1:6432, 0.0.0.0:6432 or [::1]:6432
pgweir.yaml:3: workers: `0` is out of range
    hint: from 1 to 1024
pgweir.yaml:6: clusters.main.databases[2]: `a` is listed twice
pgweir.yaml:8: clusters.main.nodes[0].port: `70000` is out of range
    hint: from 1 to 65535
pgweir.yaml:9: clusters.main.nodes[1]: is the second node with the name a
    hint: give each node a `name` of its own
pgweir.yaml:11: clusters.main.nodes[1].port: `${BAD_PORT}` is not a whole number
pgweir.yaml:12: clusters.main.nodes[2].port: is missing
    hint: usually 5432
pgweir.yaml:12: clusters.main.nodes[2].wieght: is not a known key
    hint: did you mean `weight`?
pgweir.yaml:13: clusters.main.nodes[3].host: `h:o/st` is not a host name or an IP address
    hint: the port stands under `port`
pgweir.yaml:14: clusters.main.nodes[4]: is the second node with the name c
    hint: give each node a `name` of its own
pgweir.yaml:15: clusters.main.nodes[5]: is the second node at h:1
pgweir.yaml:16: clusters.main.nodes[6]: is one value, but a mapping belongs here
pgweir.yaml:17: clusters.main.monitor.password: is missing
    hint: it is known only for a name that stands under `users`
pgweir.yaml:18: clusters.main.pool.size: `many` is not a whole number
pgweir.yaml:18: clusters.main.pool.mode: `sesion` is not one of the possible words
    hint: did you mean `session`? (one of transaction, session)
pgweir.yaml:18: clusters.main.pool.idle_timeout: `10` is not a duration
    hint: write a whole number with one of us, ms, s, m, h, d, as in 250ms or 10s
pgweir.yaml:19: clusters.main.server_tls.ca: `/x` cannot be read: No such file or directory (os error 2)
pgweir.yaml:20: clusters.main.discover: `true` is not supported by this version
    hint: only `false` is
pgweir.yaml:21: clusters.main.routing.max_lag: `5` is not a size
    hint: write a whole number with one of B, kB, MB, GB (or KiB, MiB, GiB: the same, as in PostgreSQL)
pgweir.yaml:21: clusters.main.routing.transactions: `until_wrote` is not one of the possible words
    hint: did you mean `until_write`? (one of primary, until_write)
pgweir.yaml:22: clusters.second: serves all databases, as another cluster does
    hint: list its `databases`
pgweir.yaml:23: clusters.second.nodes: lists no node
pgweir.yaml:25: users[0].password: begins like a SCRAM verifier and is none
    hint: copy rolpassword from pg_authid, in quotes
pgweir.yaml:26: users[1].password: is not text
    hint: put it in quotes
pgweir.yaml:27: users[2]: has a name that another user has
pgweir.yaml:30: users[3].routing.max_staleness: `1s` is not supported by this version
    hint: under a user, write consistency.max_staleness
pgweir.yaml:31: auth.method: `cert` needs verified client certificates
    hint: write client_tls: { mode: require, cert: ..., key: ..., client_ca: ... }
pgweir.yaml:31: auth.query: `select` does not ask for a name
    hint: such as: SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())
pgweir.yaml:31: auth.query: `select` needs clients that prove a password
    hint: write method: scram-sha-256, md5 or password
pgweir.yaml:32: client_tls.key: is missing
    hint: clients are shown it
pgweir.yaml:32: client_tls.cert: `x` cannot be read: No such file or directory (os error 2)
pgweir.yaml:33: routing.balance: `least-loaded` is not one of the possible words
    hint: did you mean `least_loaded`? (one of least_loaded, round_robin, random)
pgweir.yaml:33: routing.read_functions[0]: `f(int)` is not a name
    hint: write `name` or `schema.name`, without arguments or quotes
pgweir.yaml:35: consistency.default: `sesion` is not one of the possible words
    hint: did you mean `session`? (one of eventual, session, latest, primary)
pgweir.yaml:37: consistency.window: makes a window of 1s, shorter than routing.max_staleness of 10s
    hint: a read would miss the session's own write: at least 10s
pgweir.yaml:38: consistency.wait: makes max_wait 1s, shorter than wait 5s
    hint: max_wait is the longest wait of all
pgweir.yaml:39: consistency.spill_limit: `101%` is not a percentage
    hint: write a whole number from 0 to 100 with a percent sign, as in 50%
pgweir.yaml:40: failover.promote: `manual` is not supported by this version
    hint: only `never` is
pgweir.yaml:40: failover.patroni: is not supported by this version
    hint: only the empty list is
pgweir.yaml:40: failover.hold: `15s` is not supported by this version
    hint: leave it out: nothing is held yet
pgweir.yaml:41: causality.store: is not the URL of a Redis or Valkey server
    hint: none, or redis://[user:password@]host[:port][/database]; TLS is not supported
pgweir.yaml:41: causality.key_ttl: `1ms` is out of range
    hint: from 1s to 168h
pgweir.yaml:41: causality.max_keys: `0` is out of range
    hint: from 1 to 100000000
pgweir.yaml:41: causality.secret: is too short
    hint: at least 16 bytes, such as openssl rand -hex 32 prints
pgweir.yaml:42: admin_users: is not supported by this version
    hint: only the empty list is
pgweir.yaml:43: limits.max_clients: `-1` is not a whole number
pgweir.yaml:43: limits.max_message: `2GiB` is out of range
    hint: from 64KiB to 1GiB
pgweir.yaml:43: limits.idle_in_transaction: `5m` is not supported by this version
    hint: only `none` is
pgweir.yaml:44: log.format: `xml` is not one of the possible words
    hint: one of text, json
pgweir.yaml:44: log.level: `warning` is not one of the possible words
    hint: one of error, warn, info, debug, trace";

#[test]
fn values_that_contradict_each_other_are_refused() {
    check(
        r"listen: [127.0.0.1:1, 0.0.0.0:1]
http: 127.0.0.1:1
clusters:
  a: { nodes: [{host: h, port: 1}] }
  b: { nodes: [{host: h, port: 1}] }
users: [{name: u, password: p}]
routing: {max_staleness: 1m}
consistency: {read_after_write: window, max_wait: 1ms}
",
        r"pgweir.yaml:1: listen[1]: `0.0.0.0:1` clashes with 127.0.0.1:1
pgweir.yaml:2: http: `127.0.0.1:1` clashes with 127.0.0.1:1 in listen
    hint: choose another port
pgweir.yaml:5: clusters.b: serves all databases, as another cluster does
    hint: list its `databases`
pgweir.yaml:8: consistency.read_after_write: makes a window of 15s, shorter than routing.max_staleness of 1m
    hint: a read would miss the session's own write: at least 1m
pgweir.yaml:8: consistency.max_wait: makes max_wait 1ms, shorter than wait 10ms
    hint: max_wait is the longest wait of all",
    );
}

#[test]
fn strict_reads_are_refused_where_no_read_is_monotonic() {
    check(
        r"clusters:
  a: { nodes: [{host: h, port: 1}], consistency: {on_no_replica: stale} }
users:
  - {name: u, password: p, consistency: {default: eventual}}
  - {name: v, password: p, consistency: {monotonic_reads: stricd}}
consistency: {monotonic_reads: strict}
",
        r"pgweir.yaml:5: users[1].consistency.monotonic_reads: `stricd` is not one of the possible words
    hint: did you mean `strict`? (one of ordinary, strict)
pgweir.yaml:6: consistency.monotonic_reads: cannot be strict with default: eventual
    hint: reads may show less than earlier ones there: write ordinary
pgweir.yaml:6: consistency.monotonic_reads: cannot be strict with on_no_replica: stale
    hint: reads may show less than earlier ones there: write ordinary",
    );
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    check(
        r"clusters:
users:
log: text
limits: []
listen: tmp
admin_users: root
? [a]
: b
workers: !x 3
",
        r"pgweir.yaml:1: clusters: has no value
pgweir.yaml:2: users: has no value
pgweir.yaml:3: log: is one value, but a mapping belongs here
pgweir.yaml:4: limits: is a list, but a mapping belongs here
pgweir.yaml:5: listen: `tmp` is not an IP address with a port
    hint: write it as 127.0.0.1:6432, 0.0.0.0:6432 or [::1]:6432, or as a directory for a Unix socket
pgweir.yaml:6: admin_users: `root` is not supported by this version
    hint: only the empty list is
pgweir.yaml:9: workers: has a YAML tag, which nothing here needs
pgweir.yaml: has a key that is not a word",
    );
}

#[test]
fn an_empty_file_lacks_what_is_required() {
    check(
        r"",
        r"pgweir.yaml:1: users: is missing
    hint: write users: [{ name: app, password: ... }]
pgweir.yaml:1: clusters: is missing
    hint: write clusters: { main: { nodes: [{ host: ..., port: 5432 }] } }",
    );
}

#[test]
fn a_list_is_no_configuration() {
    check(
        r"- a
",
        r"pgweir.yaml: is a list, but a mapping belongs here",
    );
}

#[test]
fn text_that_is_not_yaml_is_refused_with_its_line() {
    check(
        r"a: b: c
",
        r"pgweir.yaml:1: is not YAML: mapping values are not allowed in this context at line 1 column 5",
    );
}

#[test]
fn a_key_may_stand_once() {
    check(
        r"listen: x
listen: y
",
        r#"pgweir.yaml:1: has a key twice in the mapping that begins here: duplicate entry with key "listen""#,
    );
}

#[test]
fn nodes_are_compared_even_when_one_is_faulty() {
    check(
        r#"clusters: {m: {nodes: [{name: a, host: "a b", port: 1},{name: a, host: h, port: 1}]}}
users: [{name: u, password: p}]
clusters2: {}
"#,
        r"pgweir.yaml:1: clusters.m.nodes[0].host: `a b` is not a host name or an IP address
    hint: the port stands under `port`
pgweir.yaml:1: clusters.m.nodes[1]: is the second node with the name a
    hint: give each node a `name` of its own
pgweir.yaml:3: clusters2: is not a known key
    hint: did you mean `clusters`?",
    );
}

#[test]
fn an_endpoint_of_changing_instances_beside_others_is_a_fault() {
    check(
        r"clusters:
  m:
    databases: [a]
    nodes:
      - { host: shop.cluster-abc.eu-central-1.rds.amazonaws.com, port: 5432 }
      - { host: Shop.Cluster-RO-abc.eu-central-1.RDS.amazonaws.com, port: 5432 }
      - { host: shop-1.abc.eu-central-1.rds.amazonaws.com, port: 5432 }
      - { host: shop.cluster-a.internal, port: 5432 }
  alone:
    databases: [b]
    nodes: [{ host: shop.cluster-abc.eu-central-1.rds.amazonaws.com, port: 5432 }]
users: [{ name: pgweir, password: p }]
",
        r"pgweir.yaml:5: clusters.m.nodes[0]: leads to changing instances: what is measured on one would be taken for another
    hint: name the endpoint of each instance
pgweir.yaml:6: clusters.m.nodes[1]: leads to changing instances: what is measured on one would be taken for another
    hint: name the endpoint of each instance",
    );
}

#[test]
fn references_that_cannot_be_replaced_are_faults() {
    check(
        "users: [{ name: '${NAME}', password: '${NOT_SET}' }]
clusters: { main: { nodes: [{ host: 'a${b', port: '${1}' }], zone: 'x${NOT}' } }
",
        "\
pgweir.yaml:1: users[0].name: refers to the environment variable NAME, which is not set
pgweir.yaml:1: users[0].password: refers to the environment variable NOT_SET, which is not set
pgweir.yaml:2: clusters.main.nodes[0].host: has a ${ without its }
    hint: write ${NAME} for an environment variable, $${ for a literal ${
pgweir.yaml:2: clusters.main.nodes[0].port: has a reference ${...} that is not the name of a variable
    hint: write ${NAME} for an environment variable, $${ for a literal ${
pgweir.yaml:2: clusters.main.zone: refers to the environment variable NOT, which is not set",
    );
}

#[test]
fn a_file_of_faults_is_reported_up_to_a_bound() {
    use std::fmt::Write as _;

    let mut text = String::new();
    for number in 0..150 {
        writeln!(text, "wrong{number}: 1").unwrap();
    }
    let report = report(&text);
    assert!(
        report.ends_with("pgweir.yaml: and 52 more faults"),
        "{report}"
    );
    assert_eq!(report.matches("is not a known key").count(), 98);
}

#[test]
fn faults_that_aliases_multiply_are_not_counted_to_the_end() {
    let row = "*a, ".repeat(40);
    let rows = "*b, ".repeat(40);
    let report = report(&format!("x: &a '${{'\ny: &b [{row}]\nz: [{rows}]\n"));
    assert!(
        report.ends_with("pgweir.yaml: and at least 900 more faults"),
        "{report}"
    );
}

#[test]
fn more_nodes_than_a_set_holds_are_refused() {
    use std::fmt::Write as _;

    let mut text = "users: [{ name: u, password: p }]\nclusters:\n  m:\n    nodes:\n".to_owned();
    for port in 1..=65 {
        writeln!(text, "      - {{ host: h, port: {port} }}").unwrap();
    }
    check(
        &text,
        "pgweir.yaml:4: clusters.m.nodes: has more than 64 nodes",
    );
}
