//! Code that leaves something behind in the session that runs it: settings, temporary objects, locks.

use super::Catalog;

impl Catalog {
    /// Whether any code in the database may leave something behind.
    pub fn has_loud_code(&self) -> bool {
        !self.known.loud.is_empty()
    }

    /// Whether a statement with these words or operators may run such code: it names what reaches it.
    pub fn is_loud(&self, words: &[Box<str>], operators: &[Box<str>]) -> bool {
        let loud = &self.known.loud;
        let named = |word: &str| loud.contains(word) || may_mean_another(word);
        self.has_loud_code()
            && (loud.contains("")
                || words.iter().any(|word| named(word))
                || operators.iter().any(|name| loud.contains(name)))
    }
}

/// Whether it is not known what the word names. How others than ASCII letters are folded depends on the
/// database, and TRUNCATE reaches along every key with CASCADE.
fn may_mean_another(word: &str) -> bool {
    let escaped = word
        .get(..2)
        .is_some_and(|two| two.eq_ignore_ascii_case("u&"));
    escaped || !word.is_ascii() || word == "cascade"
}
