//! Reads typed values out of a [`Tree`].

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::faults::{Faults, Misfit};
use super::yaml::{KeyPath, Segment, Tree};
use crate::config::errors::{nearest, printable};
use crate::config::units::{self, BadUnit};

/// The longest path of a file (`PATH_MAX` of limits.h(0p) on Linux), in bytes.
const PATH_BYTES: usize = 4096;

/// A mapping whose keys are all known.
pub(in crate::config) struct Section<'a> {
    path: KeyPath,
    entries: &'a [(String, Tree)],
    faults: &'a Faults<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The value of `key`.
    pub(in crate::config) fn field(&self, key: &'static str) -> Field<'a> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        let entry = self.entries.iter().find(|(name, _)| name == key);
        Field {
            path: self.path.key(key),
            tree: entry.map(|(_, tree)| tree),
            faults: self.faults,
        }
    }

    /// Refuses every key that was not asked for.
    pub(in crate::config) fn finish(self) {
        let asked = self.asked.into_inner();
        // A mapping with a password in it may have the password where a key belongs.
        let holds_secret = asked.contains(&"password");
        for (key, tree) in self.entries {
            if asked.contains(&key.as_str()) {
                continue;
            }
            let meant = nearest(key, asked.iter().copied());
            if holds_secret && meant.is_none() && !looks_like_a_key(key, tree) {
                let misfit = Misfit::new("has an unknown key (not shown: it may be a secret)")
                    .hint("write `password: ...` with a colon and a space");
                self.faults.note(&self.path, misfit);
                continue;
            }
            let misfit = Misfit::new("is not a known key").hint(match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", asked.join(", ")),
            });
            self.faults.note(&self.path.key(key), misfit);
        }
    }
}

fn looks_like_a_key(key: &str, tree: &Tree) -> bool {
    let has_value = !matches!(tree, Tree::Nothing);
    has_value
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// A duration that bounds something, or the word `none`.
#[derive(Clone, Copy)]
pub(in crate::config) enum Bound {
    /// `none`.
    None,
    /// At most this long.
    Within(Duration),
}

impl Bound {
    /// `None` for `none`.
    pub(in crate::config) const fn duration(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Within(duration) => Some(duration),
        }
    }
}

/// A value that may be absent. Every reader returns `None` if it is absent, or faulty and noted.
pub(in crate::config) struct Field<'a> {
    path: KeyPath,
    tree: Option<&'a Tree>,
    faults: &'a Faults<'a>,
}

impl<'a> Field<'a> {
    /// The whole file.
    pub(in crate::config) fn root(tree: &'a Tree, faults: &'a Faults<'a>) -> Self {
        Self {
            path: KeyPath::default(),
            tree: Some(tree),
            faults,
        }
    }

    /// Where it stands.
    pub(in crate::config) fn path(&self) -> &KeyPath {
        &self.path
    }

    /// Whether there is anything, right or wrong.
    pub(in crate::config) const fn is_present(&self) -> bool {
        self.tree.is_some()
    }

    /// Whether it is a list or a mapping of nothing.
    pub(in crate::config) fn is_empty_collection(&self) -> bool {
        match self.tree {
            Some(Tree::List(entries)) => entries.is_empty(),
            Some(Tree::Map(entries)) => entries.is_empty(),
            Some(Tree::Nothing | Tree::Broken | Tree::Plain(_) | Tree::Text { .. }) | None => false,
        }
    }

    /// Notes a fault of this value.
    pub(in crate::config) fn refuse(&self, misfit: Misfit) {
        match self.tree {
            Some(tree) => self.faults.note_value(&self.path, tree, misfit),
            None => self.faults.note(&self.path, misfit),
        }
    }

    /// Notes a fault if it is absent.
    pub(in crate::config) fn required(self, hint: &str) -> Self {
        if self.tree.is_none() {
            self.refuse(Misfit::new("is missing").hint(hint));
        }
        self
    }

    /// The text of a scalar; a number or a truth value as YAML prints it.
    fn scalar(&self) -> Option<&'a str> {
        match self.tree? {
            Tree::Plain(text) => Some(text),
            Tree::Text { expanded, .. } => Some(expanded),
            Tree::Broken => None,
            Tree::Nothing => self.refuse_kind("has no value"),
            Tree::List(_) => self.refuse_kind("is a list, but one value belongs here"),
            Tree::Map(_) => self.refuse_kind("is a mapping, but one value belongs here"),
        }
    }

    fn refuse_kind<T>(&self, rule: &str) -> Option<T> {
        self.faults.note(&self.path, Misfit::new(rule));
        None
    }

    /// A scalar as `parse` reads it.
    pub(in crate::config) fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, Misfit>,
    ) -> Option<T> {
        match parse(self.scalar()?) {
            Ok(value) => Some(value),
            Err(misfit) => {
                self.refuse(misfit);
                None
            }
        }
    }

    /// Text that is not empty, on one line. A number needs quotes: YAML may have changed it.
    pub(in crate::config) fn text(&self, longest_bytes: usize) -> Option<String> {
        if let Some(Tree::Plain(_)) = self.tree {
            self.refuse(Misfit::new("is not text").hint("put it in quotes"));
            return None;
        }
        self.parsed(|text| {
            if text.is_empty() {
                Err(Misfit::new("is empty"))
            } else if text.len() > longest_bytes {
                Err(Misfit::new(format!("is longer than {longest_bytes} bytes")))
            } else if text.contains(char::is_control) {
                Err(Misfit::new("has a control character"))
            } else {
                Ok(text.to_owned())
            }
        })
    }

    /// The contents of the file that it names.
    pub(in crate::config) fn file(&self) -> Option<Vec<u8>> {
        let path = self.text(PATH_BYTES)?;
        match self.faults.read_file(&path) {
            Ok(contents) => Some(contents),
            Err(error) => {
                self.refuse(Misfit::new(format!("cannot be read: {error}")));
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(in crate::config) fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.parsed(|text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number: u64 = match text.parse() {
                Ok(number) if digits => number,
                Ok(_) | Err(_) => return Err(Misfit::new("is not a whole number")),
            };
            within(number, &range, u64::to_string)
        })
    }

    /// A duration in `range`.
    pub(in crate::config) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.parsed(|text| {
            let duration = units::duration(text)?;
            within(duration, &range, |bound| units::show_duration(*bound))
        })
    }

    /// A duration in `range`, or the word `none`.
    pub(in crate::config) fn bound(&self, range: RangeInclusive<Duration>) -> Option<Bound> {
        if self.is_word("none") {
            return Some(Bound::None);
        }
        self.duration(range).map(Bound::Within)
    }

    /// A size in `range`, in bytes.
    pub(in crate::config) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.parsed(|text| {
            let bytes = units::size(text)?;
            within(bytes, &range, |bound| units::show_size(*bound))
        })
    }

    /// One of the words of `choices`.
    pub(in crate::config) fn word<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        self.parsed(|text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let expected = words.join(", ");
                Misfit::new("is not one of the possible words").hint(
                    match nearest(text, words.iter().copied()) {
                        Some(meant) => format!("did you mean `{meant}`? (one of {expected})"),
                        None => format!("one of {expected}"),
                    },
                )
            })
        })
    }

    /// Whether it is the scalar `word`.
    pub(in crate::config) fn is_word(&self, word: &str) -> bool {
        match self.tree {
            Some(Tree::Plain(text) | Tree::Text { expanded: text, .. }) => text == word,
            Some(Tree::Nothing | Tree::Broken | Tree::List(_) | Tree::Map(_)) | None => false,
        }
    }

    /// Refuses the value because this version cannot do what it asks for.
    pub(in crate::config) fn not_built(&self, hint: &str) {
        if self.tree.is_some() {
            self.refuse(Misfit::new("is not supported by this version").hint(hint));
        }
    }

    /// Refuses every value but `word`, which says that the feature is off.
    pub(in crate::config) fn only(&self, word: &str) {
        match self.tree {
            None | Some(Tree::Broken) => {}
            Some(_) if self.is_word(word) => {}
            Some(_) => self.not_built(&format!("only `{word}` is")),
        }
    }

    /// Refuses every value but the empty list.
    pub(in crate::config) fn only_empty_list(&self) {
        match self.tree {
            None | Some(Tree::Broken) => {}
            Some(Tree::List(entries)) if entries.is_empty() => {}
            Some(_) => self.not_built("only the empty list is"),
        }
    }

    /// A mapping with known keys.
    pub(in crate::config) fn section(&self) -> Option<Section<'a>> {
        Some(Section {
            path: self.path.clone(),
            entries: self.mapping()?,
            faults: self.faults,
            asked: RefCell::default(),
        })
    }

    fn mapping(&self) -> Option<&'a [(String, Tree)]> {
        match self.tree? {
            Tree::Map(entries) => Some(entries),
            Tree::Broken => None,
            // An empty file: what it must have is missing, each with its hint.
            Tree::Nothing if self.path.is_root() => Some(&[]),
            Tree::Nothing => self.refuse_kind("has no value"),
            Tree::List(_) => self.refuse_kind("is a list, but a mapping belongs here"),
            Tree::Plain(_) | Tree::Text { .. } => {
                self.refuse_kind("is one value, but a mapping belongs here")
            }
        }
    }

    /// A mapping whose keys are names that the user chose.
    pub(in crate::config) fn named(&self) -> Vec<(&'a str, Self)> {
        let entries = self.mapping().unwrap_or(&[]).iter();
        let below = |(name, tree): &'a (String, Tree)| {
            (name.as_str(), self.below(Segment::Key(name.clone()), tree))
        };
        entries.map(below).collect()
    }

    /// The entries of a list; none if it is absent.
    pub(in crate::config) fn list(&self) -> Vec<Self> {
        let entries: &[Tree] = match self.tree {
            Some(Tree::List(entries)) => entries,
            None | Some(Tree::Broken) => &[],
            Some(Tree::Nothing) => self.refuse_kind("has no value").unwrap_or(&[]),
            Some(Tree::Plain(_) | Tree::Text { .. } | Tree::Map(_)) => {
                self.refuse_kind("is not a list").unwrap_or(&[])
            }
        };
        let entries = entries.iter().enumerate();
        entries
            .map(|(place, tree)| self.below(Segment::Place(place), tree))
            .collect()
    }

    /// The entries of a list, or the one value that stands in its place.
    pub(in crate::config) fn one_or_list(self) -> Vec<Self> {
        match self.tree {
            Some(Tree::Plain(_) | Tree::Text { .. }) => vec![self],
            Some(Tree::Nothing | Tree::Broken | Tree::List(_) | Tree::Map(_)) | None => self.list(),
        }
    }

    fn below(&self, segment: Segment, tree: &'a Tree) -> Self {
        Self {
            path: self.path.then(segment),
            tree: Some(tree),
            faults: self.faults,
        }
    }
}

impl From<BadUnit> for Misfit {
    fn from(bad: BadUnit) -> Self {
        Self::new(bad.rule).hint(bad.hint)
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, Misfit> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (show(range.start()), show(range.end()));
    Err(Misfit::new("is out of range").hint(printable(&format!("from {least} to {most}"))))
}
