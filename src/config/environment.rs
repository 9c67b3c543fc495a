//! Where `${NAME}` in a value, and the contents of a file that a value names, come from.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::limits::TLS_FILE_BYTES;

/// A source of strings by name, and of files.
pub trait Environment {
    /// The value of `name`; `None` if it is not set.
    fn value_of(&self, name: &str) -> Option<String>;

    /// The contents of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is longer than `TLS_FILE_BYTES`.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        File::open(path)?
            .take(TLS_FILE_BYTES + 1)
            .read_to_end(&mut contents)?;
        if u64::try_from(contents.len()).is_ok_and(|bytes| bytes > TLS_FILE_BYTES) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(contents)
    }
}

/// The variables of this process. A value that is not UTF-8 counts as not set.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the process environment enters the configuration"
    )]
    fn value_of(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Why a reference cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadReference {
    /// `${` without `}`.
    Unclosed,
    /// What stands between the braces is not a name.
    NotAName,
    /// The variable is not set.
    NotSet(String),
}

/// `text` with every `${NAME}` replaced; `$${` stands for `${` itself.
pub(super) fn expand(text: &str, environment: &dyn Environment) -> Result<String, BadReference> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let (name, after) = after.split_once('}').ok_or(BadReference::Unclosed)?;
        if !is_name(name) {
            return Err(BadReference::NotAName);
        }
        let value = environment.value_of(name);
        expanded.push_str(&value.ok_or_else(|| BadReference::NotSet(name.to_owned()))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn value_of(&self, name: &str) -> Option<String> {
            match name {
                "A" => Some("one".to_owned()),
                "NESTED" => Some("${A}".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            }
        }
    }

    #[test]
    fn references_are_replaced_once_and_can_be_escaped() {
        for (text, expected) in [
            ("", ""),
            ("plain $A {A} $", "plain $A {A} $"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${EMPTY}", ""),
            ("${NESTED}", "${A}"),
            ("$${A}", "${A}"),
            ("$${", "${"),
        ] {
            assert_eq!(expand(text, &Fixed).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_reference_that_cannot_be_replaced_is_a_fault() {
        for (text, expected) in [
            ("${A", BadReference::Unclosed),
            ("${}", BadReference::NotAName),
            ("${1A}", BadReference::NotAName),
            ("${A:-b}", BadReference::NotAName),
            ("${B}", BadReference::NotSet("B".to_owned())),
        ] {
            assert_eq!(expand(text, &Fixed), Err(expected), "{text}");
        }
    }
}
