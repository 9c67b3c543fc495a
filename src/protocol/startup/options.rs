//! The `options` parameter: a command line of words with backslash escapes.
//!
//! Word rules: `pg_split_opts` in `src/backend/utils/init/postinit.c`; switches:
//! `process_postgres_switches` in `src/backend/tcop/postgres.c`.

use super::{Parameter, StartupFault, is_own};

/// `options` without the settings that pgweir answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeparatedOptions {
    /// The `pgweir.` settings in order, names in lower case.
    pub settings: Vec<Parameter>,
    /// The other words as written, with single spaces between them.
    pub rest: String,
}

/// Takes `-c pgweir.name=value`, `-cpgweir.name=value` and `--pgweir.name=value` out of `options`.
///
/// # Errors
/// [`StartupFault::SettingWithoutValue`] for such a switch without `=`.
pub fn separate_options(options: &str) -> Result<SeparatedOptions, StartupFault> {
    let mut settings = Vec::new();
    let mut rest: Vec<&str> = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        if word.text == "-c" {
            let Some(argument) = words.next() else {
                rest.push(word.raw);
                break;
            };
            match own_setting(&argument.text)? {
                Some(setting) => settings.push(setting),
                None => rest.extend([word.raw, argument.raw]),
            }
            continue;
        }
        let attached = word
            .text
            .strip_prefix("--")
            .or_else(|| word.text.strip_prefix("-c"));
        match attached.map(own_setting).transpose()?.flatten() {
            Some(setting) => settings.push(setting),
            None => rest.push(word.raw),
        }
    }
    Ok(SeparatedOptions {
        settings,
        rest: rest.join(" "),
    })
}

/// Reads `name=value` if the name is one of ours (`ParseLongOption`, `guc.c`: `-` means `_`).
fn own_setting(argument: &str) -> Result<Option<Parameter>, StartupFault> {
    let (name, value) = match argument.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (argument, None),
    };
    if !is_own(name) {
        return Ok(None);
    }
    let name = name.to_ascii_lowercase().replace('-', "_");
    match value {
        Some(value) => Ok(Some(Parameter {
            name,
            value: value.to_owned(),
        })),
        None => Err(StartupFault::SettingWithoutValue { name }),
    }
}

/// One word: as written, and with its escapes resolved.
struct Word<'a> {
    raw: &'a str,
    text: String,
}

fn split_words(options: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = options.trim_start_matches(is_space);
    while !rest.is_empty() {
        let (word, after) = next_word(rest);
        words.push(word);
        rest = after.trim_start_matches(is_space);
    }
    words
}

fn next_word(rest: &str) -> (Word<'_>, &str) {
    let mut text = String::new();
    let mut escaped = false;
    let mut end = rest.len();
    for (at, character) in rest.char_indices() {
        if !escaped && is_space(character) {
            end = at;
            break;
        }
        if !escaped && character == '\\' {
            escaped = true;
            continue;
        }
        escaped = false;
        text.push(character);
    }
    let (raw, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
    (Word { raw, text }, after)
}

/// C's `isspace` in ASCII.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}
