//! Fuzz targets, one for each parser of what a peer controls. `PGWEIR_FUZZ_TARGET` chooses; see
//! `README.md` and `run.py`.
#![no_main]

mod backend;
mod client;
mod configuration;
mod login;
mod replies;
mod shop;
mod sql;

use std::sync::OnceLock;

/// As the main crate has it, for what is shared with its tests.
mod core {
    pub use pgweir::core::catalog;
}

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 14] = [
    ("startup", client::startup),
    ("segment", client::segment),
    ("messages", client::messages),
    ("replies", replies::replies),
    ("backend", backend::messages),
    ("residue", backend::residue),
    ("login", login::to_node),
    ("scram", login::of_client),
    ("lexer", sql::lexer),
    ("classify", sql::classify),
    ("source", sql::source),
    ("hint", sql::hint),
    ("configuration", configuration::file),
    ("values", configuration::values),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("PGWEIR_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    match found {
        Some((_, target)) => *target,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("PGWEIR_FUZZ_TARGET must be one of {}", names.join(", "));
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));

/// The next byte of `data`, 0 behind its end.
fn take(data: &mut &[u8]) -> u8 {
    let Some((first, rest)) = data.split_first() else {
        return 0;
    };
    *data = rest;
    *first
}

/// Where to cut a stream of `length` bytes, as `seed` says.
fn cuts(length: usize, seed: u8) -> Vec<usize> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761).wrapping_add(1);
    let most = 1 + usize::from(seed % 16);
    let (mut at, mut cuts) = (0, Vec::new());
    while at < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        at = length.min(at + 1 + (state >> 16) as usize % most);
        cuts.push(at);
    }
    if cuts.is_empty() {
        cuts.push(0);
    }
    cuts
}
