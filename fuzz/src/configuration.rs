//! The configuration file, and values of settings.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use pgweir::config::{Config, Environment, parse, parse_duration};
use pgweir::core::lsn::Lsn;
use pgweir::core::statement::Consistency;
use pgweir::frontend::session::fuzzing::takes_setting;

/// One variable, no files.
pub struct NoVariables;

impl Environment for NoVariables {
    fn value_of(&self, name: &str) -> Option<String> {
        (name == "SET").then(|| "value".to_owned())
    }

    fn read_file(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The smallest configuration that works.
pub fn smallest() -> Config {
    let text = "clusters: { main: { nodes: [{ host: h, port: 1 }], \
                monitor: { user: m, password: p, database: postgres } } }\n\
                users: [{ name: app, password: secret }]\n";
    parse(text, "fuzz", &NoVariables).unwrap()
}

/// A file: it is proved or its faults are told, and neither takes long.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse(text, "fuzz", &NoVariables) {
        Ok(config) => {
            assert!(!config.clusters.is_empty() && config.workers > 0);
            for cluster in &config.clusters {
                assert!((1..=64).contains(&cluster.nodes.len()));
            }
        }
        Err(errors) => {
            let mut told = String::new();
            write!(told, "{errors}").unwrap();
            assert!(!told.is_empty());
        }
    }
}

/// WAL positions, durations, and the values of pgweir's settings.
pub fn values(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(position) = text.parse::<Lsn>() {
        let printed = position.to_string();
        assert_eq!(printed.parse::<Lsn>(), Ok(position));
    }
    if parse_duration(text).is_some() {
        assert!(takes_setting("max_staleness", text));
    }
    assert_eq!(
        takes_setting("consistency", text),
        Consistency::from_word(text).is_some()
    );
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    takes_setting(name, value);
}
