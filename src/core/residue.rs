//! What a statement has left behind in its session on a node, as the node itself tells.
//!
//! The text of `CALL`, `DO` or a volatile function does not say what it leaves behind. The node is
//! asked by one query, when the session stands outside a transaction; the answer decides whether the
//! session may change connections again, and which settings go with it.
//!
//! Must not decide where anything runs: a session that is not pinned is routed like any other.

use super::statement::PinReason;

/// Names that a placeholder setting may have; a node lists no placeholders (`GUC_NO_SHOW_ALL`,
/// `src/backend/utils/misc/guc.c`), so they are asked for one by one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SettingNames {
    /// Lower-case names.
    pub names: Box<[String]>,
    /// Whether there may be others.
    pub others: Others,
}

/// Whether a list of names is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Others {
    /// It is.
    #[default]
    None,
    /// A name is made at run time.
    Some,
}

/// Most names that are asked for; with more the session stays pinned.
pub const NAMES_LIMIT: usize = 64;

/// Names of this many bytes are cut when another one is made of them (`NAMEDATALEN`).
const LONG_NAME: usize = 60;

/// What is left behind on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Residue {
    /// What only this connection has.
    pub bound: Option<PinReason>,
    /// Where reads may run that are no part of it.
    pub reads: Reads,
    /// The names of the temporary relations and types.
    pub names: Vec<Box<str>>,
    /// Whether a new connection would differ although nothing visible is left.
    pub wear: Wear,
    /// The settings in force that differ from the start-up values: name and SQL text of the value.
    pub settings: Vec<(String, String)>,
    /// The customized options that were asked for and exist, with or without a value.
    pub options: Vec<String>,
}

/// Where reads of a session may run that keeps a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Reads {
    /// Wherever those of any session may: what the connection has is reached by nothing but statements
    /// and volatile functions.
    #[default]
    Anywhere,
    /// The same, but for code of users, in whose source there may be a look at what the connection has.
    Uncoded,
    /// The same, but also for what can mean a temporary object.
    Apart,
    /// On that connection.
    Here,
}

impl Reads {
    /// Where reads may run beside what keeps a session for this reason. What a notification tells of must be seen afterwards, and nobody here knows when it came.
    pub const fn beside(reason: PinReason) -> Self {
        match reason {
            // `currval` and `lastval` are volatile, so that no stable function may call them.
            PinReason::Sequence => Self::Anywhere,
            // Stable code may read `pg_locks`, `pg_cursors` and `pg_prepared_statements`.
            PinReason::AdvisoryLock | PinReason::HeldCursor | PinReason::SqlPrepare => {
                Self::Uncoded
            }
            PinReason::TemporaryObject => Self::Apart,
            PinReason::Listen
            | PinReason::Setting
            | PinReason::Load
            | PinReason::ServerResource
            | PinReason::Seed
            | PinReason::UnknownCode
            | PinReason::CodeBehindWrite
            | PinReason::PoolMode
            | PinReason::Replication
            | PinReason::NotUnderstood => Self::Here,
        }
    }
}

/// Whether a connection has become unlike a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wear {
    /// It has not.
    #[default]
    None,
    /// It has a temporary schema, which outlives its tables.
    TemporarySchema,
}

/// Settings whose value is a list of identifiers, each to be quoted by itself (`GUC_LIST_QUOTE`).
const QUOTED_LISTS: [&str; 5] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
];

/// Every object depends on its schema; 2615 is `pg_namespace` (`src/include/catalog/pg_namespace.h`).
const FIXED: &str = "SELECT 'wear', '' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 \
 UNION ALL SELECT 'bound', 'temporary_object' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
 WHERE refclassid OPERATOR(pg_catalog.=) 2615 AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
 UNION ALL SELECT 'held', name FROM (SELECT pg_catalog.concat(c.relname, t.typname) \
 FROM pg_catalog.pg_depend d \
 LEFT JOIN pg_catalog.pg_class c ON d.classid OPERATOR(pg_catalog.=) 1259 AND c.oid OPERATOR(pg_catalog.=) d.objid \
 LEFT JOIN pg_catalog.pg_type t ON d.classid OPERATOR(pg_catalog.=) 1247 AND t.oid OPERATOR(pg_catalog.=) d.objid \
 WHERE d.refclassid OPERATOR(pg_catalog.=) 2615 AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
 AND d.classid OPERATOR(pg_catalog.=) ANY (ARRAY[1259, 1247]) LIMIT 65) AS held (name) \
 UNION ALL SELECT 'bound', 'child' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend d \
 JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) d.objid \
 JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) i.inhparent \
 WHERE d.classid OPERATOR(pg_catalog.=) 1259 AND d.refclassid OPERATOR(pg_catalog.=) 2615 \
 AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
 AND p.relnamespace OPERATOR(pg_catalog.<>) d.refobjid) \
 UNION ALL SELECT 'bound', 'advisory_lock' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
 WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
 UNION ALL SELECT 'bound', 'listen' WHERE EXISTS (SELECT pg_catalog.pg_listening_channels()) \
 UNION ALL SELECT 'bound', 'held_cursor' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
 UNION ALL SELECT 'bound', 'sql_prepare' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
 UNION ALL SELECT 'set:role', pg_catalog.current_setting('role') \
 WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
 UNION ALL SELECT 'set:session_authorization', session_user \
 UNION ALL SELECT pg_catalog.concat('set:', name), setting FROM pg_catalog.pg_settings \
 WHERE source OPERATOR(pg_catalog.=) 'session'";

/// The query that asks a node what its functions may set: rows of one text, the part of a source that says
/// so, for [`SettingNames::in_source`]; fewer than [`SOURCES_LIMIT`] if it is all. For functions that the
/// catalog does not know yet. A body in the SQL standard's form is printed only if it calls `set_config`
/// (2078): that locks what it names.
pub const SOURCES: &str = "SELECT DISTINCT found[1] FROM (SELECT pg_catalog.regexp_matches(\
 CASE WHEN prosqlbody IS NULL THEN prosrc \
 WHEN prosqlbody::pg_catalog.text OPERATOR(pg_catalog.~~) '%:funcid 2078 %' THEN pg_catalog.pg_get_function_sqlbody(oid) END, \
 E'(set_config\\\\s*\\\\(\\\\s*(?:''+[^'']{0,150}''|.)\
|\\\\mset\\\\s+(?:(?:session|local)\\\\s+)?[^\\\\s=]{0,75}[.%''][^\\\\s=]{0,75})', 'gi') \
 FROM pg_catalog.pg_proc WHERE oid OPERATOR(pg_catalog.>=) 16384 \
 UNION ALL SELECT ARRAY[pg_catalog.concat('SET ', pg_catalog.split_part(setting, '=', 1))] \
 FROM pg_catalog.pg_proc, pg_catalog.unnest(proconfig) AS run (setting) \
 WHERE pg_proc.oid OPERATOR(pg_catalog.>=) 16384) AS sources (found) LIMIT 500";

/// The most rows that [`SOURCES`] gives.
pub const SOURCES_LIMIT: usize = 500;

/// The query that asks a node which of the customized options exist: rows of one text.
pub fn existing<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(literal).collect();
    format!(
        "SELECT name FROM pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]) AS used (name) \
         WHERE pg_catalog.current_setting(name, true) IS NOT NULL",
        names.join(", ")
    )
}

/// The query that asks a node for the residue; rows of two texts. `names` are placeholders.
pub fn query(names: &[String]) -> String {
    let mut sql = FIXED.to_owned();
    for name in names.iter().take(NAMES_LIMIT) {
        let name = literal(name);
        sql.push_str(" UNION ALL SELECT pg_catalog.concat('set:', ");
        sql.push_str(&name);
        sql.push_str("), pg_catalog.current_setting(");
        sql.push_str(&name);
        sql.push_str(", true)");
    }
    sql
}

impl Residue {
    /// Takes in one row of the answer. `login` is the role that the connection was opened for.
    pub fn add(&mut self, kind: &str, value: Option<&str>, login: &str) {
        let Some(value) = value else { return };
        let custom = kind.strip_prefix("set:");
        if let Some(name) = custom.filter(|name| name.contains('.')) {
            self.options.push(name.to_ascii_lowercase());
        }
        match (kind, kind.strip_prefix("set:")) {
            ("wear", _) => self.wear = Wear::TemporarySchema,
            ("bound", _) => self.bind(reason(value)),
            ("held", _) => self.hold(value),
            (_, Some("session_authorization")) if value == login => {}
            // A placeholder that was reset is empty, and one that never was set would be.
            (_, Some(name)) if value.is_empty() && name.contains('.') => {}
            (_, Some(name)) => {
                if name == "search_path" && value.to_ascii_lowercase().contains("pg_temp") {
                    // What is created may be temporary though its text does not say so.
                    self.bind(PinReason::Setting);
                }
                let value = setting_literal(name, value);
                self.settings.push((name.to_ascii_lowercase(), value));
            }
            (_, None) => self.bind(PinReason::NotUnderstood),
        }
    }

    /// Takes in a row whose value is not UTF-8: nobody can repeat it elsewhere.
    pub fn add_unreadable(&mut self, kind: &str) {
        if let Some(name) = kind.strip_prefix("set:").filter(|name| name.contains('.')) {
            self.options.push(name.to_ascii_lowercase());
        }
        self.reads = Reads::Here;
        if kind != "held" {
            self.bind(PinReason::Setting);
        }
    }

    /// How others than ASCII letters are folded depends on the database, and the name of an array's
    /// type is made of its element's, cut short.
    fn hold(&mut self, name: &str) {
        if name.is_ascii() && name.len() < LONG_NAME && self.names.len() < NAMES_LIMIT {
            self.names.push(name.into());
        } else {
            self.reads = Reads::Here;
        }
    }

    fn bind(&mut self, reason: PinReason) {
        self.bound = self.bound.or(Some(reason));
        self.reads = self.reads.max(Reads::beside(reason));
    }
}

fn reason(word: &str) -> PinReason {
    match word {
        "temporary_object" => PinReason::TemporaryObject,
        "advisory_lock" => PinReason::AdvisoryLock,
        "listen" => PinReason::Listen,
        "held_cursor" => PinReason::HeldCursor,
        "sql_prepare" => PinReason::SqlPrepare,
        // Among them a child: a permanent table is read with it, which nobody else can see.
        _ => PinReason::NotUnderstood,
    }
}

/// The SQL text that gives the setting this value.
fn setting_literal(name: &str, value: &str) -> String {
    if !QUOTED_LISTS.contains(&name) {
        return literal(value);
    }
    let items: Vec<String> = identifiers(value)
        .iter()
        .map(|item| literal(item))
        .collect();
    if items.is_empty() {
        // An empty list is written as one empty name.
        return "''".to_owned();
    }
    items.join(", ")
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// The items of a list of identifiers (`SplitIdentifierString`, `src/backend/utils/adt/varlena.c`):
/// quoted ones as they are, others folded to lower case.
fn identifiers(list: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let item = if let Some(quoted) = rest.strip_prefix('"') {
            let (item, after) = unquoted(quoted);
            rest = after;
            item
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (item, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            rest = after;
            item.trim_end().to_ascii_lowercase()
        };
        items.push(item);
        rest = rest.trim_start().trim_start_matches(',').trim_start();
    }
    items
}

/// The text up to the closing quote, doubled quotes made single, and what stands behind it.
fn unquoted(text: &str) -> (String, &str) {
    let mut item = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        item.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                item.push('"');
                rest = more;
            }
            None => return (item, after),
        }
    }
    item.push_str(rest);
    (item, "")
}

impl SettingNames {
    /// The names of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut names: Vec<String> = self.names.to_vec();
        let mut others = self.others.max(other.others);
        for name in &other.names {
            if names.len() > NAMES_LIMIT {
                others = Others::Some;
                break;
            }
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self {
            names: names.into(),
            others,
        }
    }

    /// The placeholders that the source of a function or a block of code may set: what follows
    /// `set_config(` as a literal, and `SET` as a name with a dot. Quotes are not read: the source may
    /// hold statements in strings.
    pub fn in_source(source: &str) -> Self {
        let mut found = Self::default();
        let lower = source.to_ascii_lowercase();
        for (at, word) in lower.match_indices("set_config") {
            let arguments = lower.get(at + word.len()..).unwrap_or_default();
            found.take(call_name(arguments));
        }
        for (at, word) in lower.match_indices("set") {
            let begins = lower.get(..at).is_none_or(|before| {
                !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "_.$".contains(c))
            });
            let after = lower.get(at + word.len()..).unwrap_or_default();
            if begins && after.starts_with(|c: char| c.is_ascii_whitespace()) {
                found.take(assigned_name(after));
            }
        }
        found
    }

    fn take(&mut self, name: Found) {
        // More are not asked for, and looking each up among all others takes too long.
        if self.names.len() > NAMES_LIMIT {
            return;
        }
        match name {
            Found::Nothing => {}
            Found::Unknown => self.others = Others::Some,
            Found::Name(name) => {
                if !self.names.contains(&name) {
                    let mut names = std::mem::take(&mut self.names).into_vec();
                    names.push(name);
                    self.names = names.into();
                }
            }
        }
        if self.names.len() > NAMES_LIMIT {
            self.others = Others::Some;
        }
    }
}

enum Found {
    /// Not a placeholder.
    Nothing,
    Name(String),
    /// A name that is made at run time.
    Unknown,
}

/// What stands behind `set_config`, up to the first argument.
fn call_name(arguments: &str) -> Found {
    let Some(inner) = arguments.trim_start().strip_prefix('(') else {
        return Found::Nothing;
    };
    // In a string of dynamic SQL the quotes are doubled.
    let Some(quoted) = inner.trim_start().strip_prefix('\'') else {
        return Found::Unknown;
    };
    let name = quoted.trim_start_matches('\'');
    match name.split_once('\'') {
        Some((name, _)) if is_placeholder(name) => Found::Name(name.to_owned()),
        Some((name, _)) if is_setting(name) => Found::Nothing,
        _ => Found::Unknown,
    }
}

/// What stands behind `SET `.
fn assigned_name(after: &str) -> Found {
    let mut words = after.split_ascii_whitespace();
    let mut word = words.next().unwrap_or_default();
    if matches!(word, "session" | "local") {
        word = words.next().unwrap_or_default();
    }
    let name = word.split('=').next().unwrap_or_default();
    if name.starts_with(['%', '\'']) {
        return Found::Unknown;
    }
    if is_placeholder(name) {
        Found::Name(name.to_owned())
    } else {
        Found::Nothing
    }
}

fn is_setting(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
}

fn is_placeholder(name: &str) -> bool {
    is_setting(name) && name.contains('.')
}

#[cfg(test)]
mod tests;
