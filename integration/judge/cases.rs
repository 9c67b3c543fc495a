//! The lines of `traps.txt` and `orm.txt`.

/// The tables of a shop.
pub(crate) const SHOP: &str = include_str!("shop.sql");
/// What the traps need beside them.
pub(crate) const TRAPS_SCHEMA: &str = include_str!("traps_schema.sql");

/// Who may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A replica has to.
    Replica,
    /// Any node, with the answer of the primary.
    Any,
    /// The primary, or pgweir itself.
    Primary,
}

/// Statements of one session.
#[derive(Debug, Clone)]
pub(crate) struct Trap {
    pub(crate) kind: Kind,
    pub(crate) statements: Vec<String>,
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.replace("\\n", "\n"))
}

/// All traps.
pub(crate) fn traps() -> Vec<Trap> {
    let traps = lines(include_str!("traps.txt")).map(|line| {
        let (kind, statements) = line.split_once(" | ").unwrap();
        Trap {
            kind: match kind {
                "P" => Kind::Primary,
                "A" => Kind::Any,
                "R" => Kind::Replica,
                other => panic!("kind {other}"),
            },
            statements: statements.split(" ;; ").map(str::to_owned).collect(),
        }
    });
    let mut traps: Vec<Trap> = traps.collect();
    // What makes temporary tables and settings comes last.
    traps.sort_by_key(|trap| trap.kind);
    assert!(traps.len() >= 300, "{}", traps.len());
    traps
}

/// All reads as mappers print them, with the values of their parameters.
pub(crate) fn orm_reads() -> Vec<(String, Vec<String>)> {
    let reads = lines(include_str!("orm.txt")).map(|line| {
        let mut parts = line.split('\t').map(str::to_owned);
        (parts.next().unwrap(), parts.collect())
    });
    let reads: Vec<_> = reads.collect();
    assert!(reads.len() >= 300, "{}", reads.len());
    reads
}
