//! Faults of a configuration file, all of them at once.

use std::fmt;

use super::limits::{CONFIG_FAULTS_KEPT, CONFIG_FAULTS_LISTED};
use super::raw::NotYaml;

/// Why a file is refused: every fault in it, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name as it was given.
    file: String,
    /// At least one.
    faults: Vec<Fault>,
    /// How many more there are than `faults` lists.
    unlisted: usize,
}

/// One fault of a file. No part of it holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// The line, from 1; `None` if the fault has no place in the file.
    pub line: Option<usize>,
    /// The path of the key, as in `clusters.main.nodes[0].port`; empty for the file as a whole.
    pub path: String,
    /// The value as it was written; `None` if there is none to show or it may be a secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub rule: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(file: &str, mut faults: Vec<Fault>, unlisted: usize) -> Self {
        faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        Self {
            file: printable(file),
            faults,
            unlisted,
        }
    }

    /// The one fault of a file that cannot be read at all.
    pub(super) fn unreadable(file: &str, rule: String) -> Self {
        let fault = Fault {
            rule,
            ..Fault::default()
        };
        Self::new(file, vec![fault], 0)
    }

    /// The one fault of a text that is not YAML.
    pub(super) fn not_yaml(file: &str, error: NotYaml) -> Self {
        let NotYaml { line, message } = error;
        let message = printable(&message);
        let rule = if message.contains("duplicate entry") {
            format!("has a key twice in the mapping that begins here: {message}")
        } else {
            format!("is not YAML: {message}")
        };
        let fault = Fault {
            line,
            rule,
            ..Fault::default()
        };
        Self::new(file, vec![fault], 0)
    }

    /// The faults, in the order of their lines.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.faults.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            match fault.line {
                Some(line) => write!(f, "{}:{line}: {fault}", self.file)?,
                None => write!(f, "{}: {fault}", self.file)?,
            }
        }
        if self.unlisted > 0 {
            // Nobody has counted further.
            let at_least = if self.unlisted == CONFIG_FAULTS_KEPT - CONFIG_FAULTS_LISTED {
                "at least "
            } else {
                ""
            };
            let (file, unlisted) = (&self.file, self.unlisted);
            write!(f, "\n{file}: and {at_least}{unlisted} more faults")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "`{value}` ")?;
        }
        f.write_str(&self.rule)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// `text` on one line and of a length that fits one.
pub(super) fn printable(text: &str) -> String {
    const LONGEST_SHOWN: usize = 100;

    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= LONGEST_SHOWN {
            shown.push_str("...");
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The one of `known` that `word` probably means: at most a third of its letters differ.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, without regard to case and to `-` for `_`.
fn distance(a: &str, b: &str) -> usize {
    let normal = |c: char| {
        if c == '-' {
            '_'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let b: Vec<char> = b.chars().map(normal).collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (place, letter) in a.chars().map(normal).enumerate() {
        let mut left = place + 1;
        let mut row = vec![left];
        for ((diagonal, over), other) in above.iter().zip(above.iter().skip(1)).zip(&b) {
            let substituted = diagonal + usize::from(letter != *other);
            left = substituted.min(over + 1).min(left + 1);
            row.push(left);
        }
        above = row;
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_only_if_it_is_near() {
        let known = ["listen", "limits", "clusters", "max_staleness", "ca"];
        for (word, meant) in [
            ("lisen", Some("listen")),
            ("lsiten", Some("listen")),
            ("cluster", Some("clusters")),
            ("max-staleness", Some("max_staleness")),
            ("maxStaleness", Some("max_staleness")),
            ("timeout", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn what_is_shown_stays_on_one_line_and_short() {
        assert_eq!(printable("a\nb\u{1b}[1m"), "a\\nb\\u{1b}[1m");
        assert_eq!(printable(&"x".repeat(500)).len(), 103);
    }
}
