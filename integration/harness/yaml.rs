//! The configuration of a proxy under test: a base, and what a test changes.

use pgweir::sandbox::LocalCluster;
use serde_yaml::Value;

/// The smallest useful configuration for a cluster, with `overrides` (YAML, the same shape) laid
/// over it: mappings are merged key by key, everything else is replaced.
pub fn config(cluster: &LocalCluster, ports: (u16, u16), overrides: &str) -> String {
    let nodes: Vec<String> = cluster
        .nodes()
        .map(|node| {
            format!(
                "{{ name: node{node}, host: 127.0.0.1, port: {} }}",
                cluster.port(node)
            )
        })
        .collect();
    let base = format!(
        "listen: 127.0.0.1:{}\n\
         http: 127.0.0.1:{}\n\
         workers: 2\n\
         clusters:\n  \
           main:\n    \
             nodes: [{}]\n    \
             monitor: {{ user: pgweir, password: pgweir, database: postgres }}\n\
         users: [{{ name: app, password: app }}]\n",
        ports.0,
        ports.1,
        nodes.join(", ")
    );
    merged(&base, overrides)
}

/// `overrides` laid over `base`.
pub fn merged(base: &str, overrides: &str) -> String {
    let mut value: Value = serde_yaml::from_str(base).unwrap();
    merge(
        &mut value,
        serde_yaml::from_str(overrides).expect("overrides must be YAML"),
    );
    serde_yaml::to_string(&value).unwrap()
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}
