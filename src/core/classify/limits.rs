//! Bounds of classification, each with its unit and where the number comes from.

/// Longest SQL text that is searched for transaction control and session state when it is too long
/// to be parsed, in bytes: 43 ns a byte were measured on a busy machine. Beyond it the session is pinned.
pub(super) const CLASSIFY_SCAN_BYTES: usize = 16 * 1024 * 1024;

/// The most statements of one text that are told apart; beyond it the session is pinned.
pub(super) const CLASSIFY_STATEMENTS: usize = 4_096;

/// The most tokens of one query that are parsed, lists of constants counted once.
pub(super) const CLASSIFY_TOKENS: usize = 16_384;

/// The most tokens that may nest in each other. The tree of so many is dropped within 2 MiB of stack
/// in a build without optimisation (a test does it), and an ORM's join of forty tables has 400.
pub(super) const CLASSIFY_CHAIN_TOKENS: usize = 1_000;

/// How many levels of parentheses and subqueries sqlparser may descend.
pub(super) const CLASSIFY_PARSE_DEPTH: usize = 64;

/// The most leading tokens of a statement that are kept, and the most hint comments of a text, when
/// the text is too long to be parsed.
pub(super) const CLASSIFY_KEPT_TOKENS: usize = 256;

/// Longest value of a SET that is repeated on other connections, in bytes; longer ones pin.
pub(super) const SETTING_VALUE_BYTES: usize = 8 * 1024;
