//! The faults found so far, and what of a value may be shown.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use super::yaml::{KeyPath, Leaves, Segment, Tree, locate};
use crate::config::environment::{BadReference, Environment, expand};
use crate::config::errors::{ConfigErrors, Fault, nearest, printable};
use crate::config::limits::{CONFIG_FAULTS_KEPT, CONFIG_FAULTS_LISTED};

/// Why a value does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Misfit {
    /// What is wrong, to stand behind the value.
    pub(in crate::config) rule: String,
    /// What would be right.
    pub(in crate::config) hint: Option<String>,
}

impl Misfit {
    /// Without a hint.
    pub(in crate::config) fn new(rule: impl Into<String>) -> Self {
        Self {
            rule: rule.into(),
            hint: None,
        }
    }

    /// With a hint.
    pub(in crate::config) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The faults of one file.
pub(in crate::config) struct Faults<'a> {
    environment: &'a dyn Environment,
    found: RefCell<Vec<Found>>,
}

#[derive(PartialEq, Eq)]
struct Found {
    path: KeyPath,
    value: Option<String>,
    misfit: Misfit,
}

impl<'a> Faults<'a> {
    pub(in crate::config) fn new(environment: &'a dyn Environment) -> Self {
        Self {
            environment,
            found: RefCell::default(),
        }
    }

    /// The contents of the file at `path`.
    pub(in crate::config) fn read_file(&self, path: &str) -> io::Result<Vec<u8>> {
        self.environment.read_file(Path::new(path))
    }

    /// Notes a fault of the thing at `path`.
    pub(in crate::config) fn note(&self, path: &KeyPath, misfit: Misfit) {
        self.note_with(path, None, misfit);
    }

    /// Notes a fault of the value `tree` at `path`, which is shown unless it may be a secret.
    pub(in crate::config) fn note_value(&self, path: &KeyPath, tree: &Tree, misfit: Misfit) {
        let value = if path.is_secret() { None } else { shown(tree) };
        self.note_with(path, value, misfit);
    }

    fn note_with(&self, path: &KeyPath, value: Option<String>, misfit: Misfit) {
        let fault = Found {
            path: path.clone(),
            value,
            misfit,
        };
        let mut found = self.found.borrow_mut();
        if found.len() < CONFIG_FAULTS_KEPT && !found.contains(&fault) {
            found.push(fault);
        }
    }

    /// The report on `file`, if there is a fault in its `text`.
    pub(in crate::config) fn report(self, file: &str, text: &str) -> Option<ConfigErrors> {
        let found = self.found.into_inner();
        if found.is_empty() {
            return None;
        }
        let unlisted = found.len().saturating_sub(CONFIG_FAULTS_LISTED);
        let listed = found.into_iter().take(CONFIG_FAULTS_LISTED);
        let faults = listed.map(|fault| Fault {
            line: locate(text, &fault.path),
            path: fault.path.to_string(),
            value: fault.value,
            rule: fault.misfit.rule,
            hint: fault.misfit.hint,
        });
        Some(ConfigErrors::new(file, faults.collect(), unlisted))
    }
}

impl Leaves for Faults<'_> {
    fn expand(&self, path: &KeyPath, text: &str) -> Option<String> {
        let misfit = match expand(text, self.environment) {
            Ok(expanded) => return Some(expanded),
            // Part of a password may look like a reference.
            Err(BadReference::NotSet(name))
                if path.is_secret() && text != format!("${{{name}}}") =>
            {
                Misfit::new("refers to an environment variable that is not set")
                    .hint("write $${ for a literal ${")
            }
            Err(BadReference::NotSet(name)) => Misfit::new(format!(
                "refers to the environment variable {}, which is not set",
                printable(&name)
            )),
            Err(BadReference::Unclosed) => Misfit::new("has a ${ without its }")
                .hint("write ${NAME} for an environment variable, $${ for a literal ${"),
            Err(BadReference::NotAName) => {
                Misfit::new("has a reference ${...} that is not the name of a variable")
                    .hint("write ${NAME} for an environment variable, $${ for a literal ${")
            }
        };
        self.note(path, misfit);
        None
    }

    fn refuse(&self, path: &KeyPath, what: &'static str) {
        self.note(path, Misfit::new(what));
    }
}

impl KeyPath {
    /// Whether the value that stands here is a password, or was meant to be one.
    fn is_secret(&self) -> bool {
        self.0.iter().any(|segment| match segment {
            Segment::Key(key) => {
                nearest(key, ["password", "server_password", "secret", "store"]).is_some()
            }
            Segment::Place(_) => false,
        })
    }
}

/// The value as it was written, so that what a variable held is not shown. Nothing that looks as if
/// a password stood in it is shown either.
fn shown(tree: &Tree) -> Option<String> {
    match tree {
        Tree::Plain(text) => Some(printable(text)),
        Tree::Text { as_written, .. } => (!as_written.contains('@')).then(|| printable(as_written)),
        Tree::Nothing | Tree::Broken | Tree::List(_) | Tree::Map(_) => None,
    }
}
