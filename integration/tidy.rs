//! The shape of the source: which module may use which, and how long a file may be.

#![cfg(test)]
#![allow(
    clippy::string_slice,
    reason = "indexes come from searches in the same text"
)]

use std::fs;
use std::path::Path;

/// The modules in import order: each may use those before it. The order is the architecture; see
/// the crate's documentation.
const ORDER: [&str; 18] = [
    "limits",
    "core",
    "protocol",
    "wire",
    "tls",
    "credential",
    "config",
    "metrics",
    "published",
    "world",
    "backend",
    "control",
    "frontend",
    "admin",
    "logging",
    "app",
    "sandbox",
    "cli",
];

/// What a module may not use although the order would let it: the start of its path, then names.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    (
        "core/",
        &[
            "tokio",
            "tracing",
            "bytes",
            "serde",
            "Instant::now",
            "SystemTime::now",
        ],
    ),
    ("protocol/", &["tokio", "sqlparser", "tracing"]),
    ("backend/", &["sqlparser"]),
    ("control/", &["sqlparser"]),
    (
        "frontend/",
        &["crate::control", "tokio_postgres", "sqlparser"],
    ),
    (
        "sandbox/",
        &[
            "crate::backend",
            "crate::control",
            "crate::frontend",
            "crate::admin",
        ],
    ),
];

/// Crates that one place only may use.
const ONLY_IN: [(&str, &str); 2] = [
    ("sqlparser", "core/classify/"),
    ("serde_yaml", "config/raw"),
];

/// Words that say nothing about what a type is.
const EMPTY_WORDS: [&str; 3] = ["Manager", "Helper", "Util"];

const FILE_LINES: usize = 500;

#[test]
fn every_source_file_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 40, "only {} files found", files.len());
    let sources: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
            (name.to_owned(), fs::read_to_string(file).unwrap())
        })
        .collect();
    let tests: Vec<String> = sources
        .iter()
        .flat_map(|(name, text)| test_modules(name, text))
        .collect();
    let faults: Vec<String> = sources
        .iter()
        .filter(|(name, _)| !tests.iter().any(|module| is_in(name, module)))
        .flat_map(|(name, text)| faults(name, text))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_of_the_tests_is_short_and_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("integration"), &mut files);
    assert!(files.len() > 60, "only {} files found", files.len());
    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(root).unwrap().display();
            let faults = shape_faults(&fs::read_to_string(file).unwrap());
            faults
                .into_iter()
                .map(move |fault| format!("{name} {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    let long = format!("//! Doc.\n{}", "// Line.\n".repeat(FILE_LINES));
    for (file, text, expected) in [
        (
            "core/lsn.rs",
            "//! Doc.\nuse crate::config::Config;\n",
            "may not use config",
        ),
        (
            "core/lsn.rs",
            "//! Doc.\nuse crate::{limits, world};\n",
            "may not use world",
        ),
        (
            "protocol/frame.rs",
            "//! Doc.\nuse crate::{\n    limits,\n    wire::x,\n};",
            "use wire",
        ),
        (
            "core/lsn.rs",
            "//! Doc.\nfn f() { crate::app::run(); }\n",
            "may not use app",
        ),
        (
            "frontend/session.rs",
            "//! Doc.\nuse crate::control::X;\n",
            "crate::control",
        ),
        (
            "core/health.rs",
            "//! Doc.\nuse tokio::time::Instant;\n",
            "tokio",
        ),
        (
            "core/health.rs",
            "//! Doc.\nfn f() { Instant::now(); }\n",
            "Instant::now",
        ),
        (
            "core/router.rs",
            "//! Doc.\nuse sqlparser::ast;\n",
            "only core/classify/",
        ),
        (
            "app.rs",
            "//! Doc.\nuse serde_yaml::Value;\n",
            "only config/raw",
        ),
        ("app.rs", "//! Doc.\nstruct PoolManager;\n", "PoolManager"),
        (
            "app.rs",
            "//! Doc.\npub(crate) enum HelperKind {}\n",
            "HelperKind",
        ),
        ("app.rs", "use std::fs;\n", "starts without"),
        ("nowhere/x.rs", "//! Doc.\n", "not in the order"),
        ("app.rs", &long, "lines"),
    ] {
        let found = faults(file, text);
        assert_eq!(found.len(), 1, "{file} {text}: {found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn allowed_text_has_no_faults() {
    for (file, text) in [
        (
            "control/monitor.rs",
            "//! Doc.\nuse crate::core::lsn::Lsn;\nuse crate::{limits, world};\n",
        ),
        ("core/classify/tree.rs", "//! Doc.\nuse sqlparser::ast;\n"),
        ("config/raw/mod.rs", "//! Doc.\nuse serde_yaml::Value;\n"),
        (
            "core/lsn.rs",
            "//! Uses no `tokio::time`.\n// See crate::app::run.\n",
        ),
        (
            "core/lsn.rs",
            "//! Doc.\n#[cfg(test)]\nmod tests {\n    use crate::app;\n}\n",
        ),
        (
            "core/lsn.rs",
            "//! Doc.\nuse super::classify;\nstruct Lsn;\n",
        ),
        ("lib.rs", "//! Doc.\npub mod app;\n"),
    ] {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{file} {text}");
    }
}

#[test]
fn only_modules_declared_for_tests_are_exempt() {
    let text = "//! Doc.\nmod product;\n#[cfg(test)]\nmod tests;\n";
    for (file, exempt) in [
        ("core/router.rs", "core/router/tests"),
        ("core/mod.rs", "core/tests"),
        ("lib.rs", "tests"),
    ] {
        assert_eq!(test_modules(file, text), [exempt], "{file}");
    }
    assert!(is_in("core/tests.rs", "core/tests"));
    assert!(is_in("core/tests/more.rs", "core/tests"));
    assert!(!is_in("core/tests_of_health.rs", "core/tests"));
}

/// The modules, as paths without `.rs`, that a file declares for tests only.
fn test_modules(name: &str, text: &str) -> Vec<String> {
    let place = name
        .trim_end_matches(".rs")
        .trim_end_matches("mod")
        .trim_end_matches("lib");
    let place = place.trim_end_matches('/');
    text.split("#[cfg(test)]\nmod ")
        .skip(1)
        .map(|rest| (identifier(rest), rest))
        .filter(|(module, rest)| rest[module.len()..].starts_with(';'))
        .map(|(module, _)| {
            format!("{place}/{module}")
                .trim_start_matches('/')
                .to_owned()
        })
        .collect()
}

/// Whether a file belongs to a module or to one inside it.
fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// What is wrong with the file `name`, a path below `src`.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = shape_faults(text);
    let code = code_of(text);
    faults.extend(order_faults(name, &code));
    faults.extend(forbidden_faults(name, &code));
    faults.extend(name_faults(&code));
    faults
        .into_iter()
        .map(|fault| format!("src/{name} {fault}"))
        .collect()
}

/// What is wrong with a file of the product or of the tests.
fn shape_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("starts without documentation (`//! `)".to_owned());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES {
        faults.push(format!("has {lines} lines, more than {FILE_LINES}"));
    }
    faults
}

/// The text without comments and without its test module.
fn code_of(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines: Vec<&str> = product
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    lines.join("\n")
}

fn order_faults(name: &str, code: &str) -> Vec<String> {
    let own = name.split('/').next().unwrap().trim_end_matches(".rs");
    if ["lib", "main"].contains(&own) {
        return Vec::new();
    }
    let Some(place) = ORDER.iter().position(|module| *module == own) else {
        return vec![format!(
            "belongs to the module {own}, which is not in the order of imports"
        )];
    };
    let mut later: Vec<String> = crate_names(code)
        .into_iter()
        .filter(|used| {
            ORDER
                .iter()
                .position(|module| module == used)
                .is_some_and(|u| u > place)
        })
        .filter(|used| !forbidden_here(name, &format!("crate::{used}")))
        .collect();
    later.dedup();
    later
        .into_iter()
        .map(|used| format!("may not use {used}: it comes later in the order"))
        .collect()
}

/// The first names of all paths that start with `crate::`.
fn crate_names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.push(identifier(rest)),
        }
    }
    names
}

/// The first names of a group's members; `group` starts after its opening brace.
fn group_names(group: &str) -> Vec<String> {
    let mut names = vec![identifier(group.trim_start())];
    let mut depth = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names
}

fn forbidden_faults(name: &str, code: &str) -> Vec<String> {
    let here = FORBIDDEN
        .iter()
        .filter(|(place, _)| name.starts_with(place));
    let general = here
        .flat_map(|(_, words)| words.iter())
        .filter(|word| uses(code, word) && !restricted_elsewhere(name, word))
        .map(|word| format!("may not use {word}"));
    let single = ONLY_IN
        .iter()
        .filter(|(word, place)| !name.starts_with(place) && uses(code, word))
        .map(|(word, place)| format!("may not use {word}: only {place} may"));
    general.chain(single).collect()
}

/// Whether a rule of [`ONLY_IN`] speaks about this word already.
fn restricted_elsewhere(name: &str, word: &str) -> bool {
    ONLY_IN
        .iter()
        .any(|(only, place)| *only == word && !name.starts_with(place))
}

fn forbidden_here(name: &str, word: &str) -> bool {
    FORBIDDEN
        .iter()
        .any(|(place, words)| name.starts_with(place) && words.contains(&word))
}

/// Whether a path or call with these names stands in the code.
fn uses(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let apart = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let is_path = code[at + word.len()..].starts_with("::") || word.contains("::");
        apart(before) && apart(after) && is_path
    })
}

fn name_faults(code: &str) -> Vec<String> {
    ["struct ", "enum ", "trait ", "type "]
        .iter()
        .flat_map(|keyword| {
            code.match_indices(keyword)
                .map(|(at, word)| identifier(&code[at + word.len()..]))
        })
        .filter(|name| EMPTY_WORDS.iter().any(|word| name.contains(word)))
        .map(|name| format!("names a type {name}, which says nothing"))
        .collect()
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
