//! Finding PostgreSQL's server programs on this machine.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The programs a cluster needs; a directory without one of them does not count.
const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_basebackup"];

/// Where versioned installations live: a directory, the start of the names below it, and the way
/// from there to the programs.
const VERSIONED: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/usr", "pgsql-", "bin"),
];

/// The places to search, so that a test can choose them.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// `PGWEIR_PG_BIN`: if set, the only place searched.
    pub chosen: Option<PathBuf>,
    /// `PATH`.
    pub path: OsString,
}

impl SearchPath {
    /// What the process environment says.
    pub fn from_environment() -> Self {
        Self {
            chosen: env::var_os("PGWEIR_PG_BIN").map(PathBuf::from),
            path: env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// The directory with the server programs: the chosen one, else the first on `PATH`, else the
    /// newest versioned installation.
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(chosen) = &self.chosen {
            return complete(chosen);
        }
        env::split_paths(&self.path)
            .find_map(|dir| complete(&dir))
            .or_else(|| VERSIONED.iter().find_map(|place| newest(*place)))
    }
}

/// `dir` with links resolved, if all programs are in it.
fn complete(dir: &Path) -> Option<PathBuf> {
    // Links such as /usr/local/bin/initdb lead to the directory which has the whole set.
    let real = fs::canonicalize(dir.join("initdb")).ok()?;
    let real_dir = real.parent()?;
    NEEDED
        .iter()
        .all(|name| real_dir.join(name).is_file())
        .then(|| real_dir.to_path_buf())
}

/// The complete installation with the highest version number below one place.
fn newest((root, prefix, bin): (&str, &str, &str)) -> Option<PathBuf> {
    fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .filter_map(|entry| Some((version(&entry.path()), complete(&entry.path().join(bin))?)))
        .max_by_key(|(version, _)| *version)
        .map(|(_, dir)| dir)
}

/// The first number in the last part of a path; 0 if there is none.
fn version(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digits: String = name
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_number_in_the_directory_name() {
        for (path, expected) in [
            ("/usr/lib/postgresql/15", 15),
            ("/opt/homebrew/opt/postgresql@17", 17),
            ("/usr/pgsql-9.6", 9),
            ("/usr/local/opt/postgresql", 0),
        ] {
            assert_eq!(version(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_chosen_directory_without_the_programs_is_not_replaced_by_another() {
        let search = SearchPath {
            chosen: Some(PathBuf::from("/nonexistent")),
            path: env::var_os("PATH").unwrap_or_default(),
        };
        assert_eq!(search.find(), None);
    }
}
