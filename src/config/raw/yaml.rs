//! YAML text to [`Tree`], and key paths to lines.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use crate::config::errors::printable;

/// One value of the file.
///
/// It has no `Debug`, because it holds secrets.
pub(in crate::config) enum Tree {
    /// `key:` with nothing behind it.
    Nothing,
    /// Has been reported already.
    Broken,
    /// `true`, `false` or a number, as YAML prints it.
    Plain(String),
    /// Text.
    Text {
        /// With its references to the environment.
        as_written: String,
        /// With the references replaced.
        expanded: String,
    },
    /// A list.
    List(Vec<Tree>),
    /// A mapping in the order of the file.
    Map(Vec<(String, Tree)>),
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::config) struct KeyPath(pub(in crate::config) Vec<Segment>);

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum Segment {
    /// A key of a mapping.
    Key(String),
    /// A place in a list, from 0.
    Place(usize),
}

impl KeyPath {
    /// The path one step down.
    pub(in crate::config) fn then(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Whether it is the path of the whole file.
    pub(in crate::config) const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of the key `key` in the mapping that stands here.
    pub(in crate::config) fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if place == 0 => f.write_str(&printable(key))?,
                Segment::Key(key) => write!(f, ".{}", printable(key))?,
                Segment::Place(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The text is not YAML.
pub(in crate::config) struct NotYaml {
    pub(in crate::config) line: Option<usize>,
    pub(in crate::config) message: String,
}

/// A leaf as the caller wants it: `Err` after it has reported a fault.
pub(in crate::config) trait Leaves {
    /// The text with its references replaced; `None` after the fault has been reported.
    fn expand(&self, path: &KeyPath, text: &str) -> Option<String>;

    /// Something that has no place in a configuration stands at `path`.
    fn refuse(&self, path: &KeyPath, what: &'static str);
}

/// Parses `text`; the faults of leaves go to `leaves`.
pub(in crate::config) fn parse(text: &str, leaves: &dyn Leaves) -> Result<Tree, NotYaml> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| NotYaml {
        line: error.location().map(|location| location.line()),
        message: error.to_string(),
    })?;
    Ok(tree(value, &KeyPath::default(), leaves))
}

fn tree(value: Value, path: &KeyPath, leaves: &dyn Leaves) -> Tree {
    match value {
        Value::Null => Tree::Nothing,
        Value::Bool(flag) => Tree::Plain(flag.to_string()),
        Value::Number(number) => Tree::Plain(number.to_string()),
        Value::String(as_written) => match leaves.expand(path, &as_written) {
            Some(expanded) => Tree::Text {
                as_written,
                expanded,
            },
            None => Tree::Broken,
        },
        Value::Sequence(entries) => {
            let entries = entries.into_iter().enumerate();
            let below = |(place, entry)| tree(entry, &path.then(Segment::Place(place)), leaves);
            Tree::List(entries.map(below).collect())
        }
        Value::Mapping(entries) => {
            let below = |(key, value)| {
                let key = key_text(key, path, leaves)?;
                let value = tree(value, &path.key(&key), leaves);
                Some((key, value))
            };
            Tree::Map(entries.into_iter().filter_map(below).collect())
        }
        Value::Tagged(_) => {
            leaves.refuse(path, "has a YAML tag, which nothing here needs");
            Tree::Broken
        }
    }
}

fn key_text(key: Value, path: &KeyPath, leaves: &dyn Leaves) -> Option<String> {
    match key {
        Value::String(key) => Some(key),
        Value::Bool(key) => Some(key.to_string()),
        Value::Number(key) => Some(key.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
            leaves.refuse(path, "has a key that is not a word");
            None
        }
    }
}

/// The line of the key (or of the list's entry) at `path`, or of the nearest thing above it that
/// exists; `None` if `text` is not YAML.
///
/// `serde_yaml` keeps no positions, but it tells where an error was raised: so an error is raised
/// on purpose at the wanted place.
pub(in crate::config) fn locate(text: &str, path: &KeyPath) -> Option<usize> {
    let mut segments = path.0.as_slice();
    while !segments.is_empty() {
        let deserializer = serde_yaml::Deserializer::from_str(text);
        if let Err(found) = Below(segments).deserialize(deserializer) {
            return found.location().map(|location| location.line());
        }
        segments = segments.split_last().map_or(&[], |(_, above)| above);
    }
    None
}

/// Raises an error at the value to which the segments lead.
struct Below<'a>(&'a [Segment]);

impl<'de> DeserializeSeed<'de> for Below<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.0.is_empty() {
            deserializer.deserialize_any(Raise)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Below<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted), rest)) = self.0.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let is_last = rest.is_empty();
        while let Some(is_wanted) = map.next_key_seed(Key { wanted, is_last })? {
            if is_wanted {
                map.next_value_seed(Below(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if let Some((Segment::Place(wanted), rest)) = self.0.split_first() {
            for _ in 0..*wanted {
                if entries.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
            }
            entries.next_element_seed(Below(rest))?;
        }
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Raises an error at whatever it is shown.
struct Raise;

impl Visitor<'_> for Raise {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

/// Whether a key is the wanted one; raises an error at it if the path ends there.
struct Key<'a> {
    wanted: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.is_last {
            return Err(E::custom("here"));
        }
        Ok(key == self.wanted)
    }

    fn visit_bool<E: de::Error>(self, key: bool) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: de::Error>(self, key: u64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: de::Error>(self, key: f64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_on_its_line_in_block_and_flow_style() {
        let text = "\
# comment
listen: 127.0.0.1:1
clusters:
  main:
    nodes:
      - { name: a, host: h,
          port: 1 }
      - name: b
        host: |
          two
          lines
        port: 2
    pool: { size: 2 }
  7:
    zone: z
";
        let key = |name: &str| Segment::Key(name.to_owned());
        let nodes = [key("clusters"), key("main"), key("nodes")];
        for (path, line) in [
            (vec![key("listen")], Some(2)),
            (vec![key("clusters")], Some(3)),
            (nodes[..].to_vec(), Some(5)),
            ([&nodes[..], &[Segment::Place(0)]].concat(), Some(6)),
            (
                [&nodes[..], &[Segment::Place(0), key("port")]].concat(),
                Some(7),
            ),
            (
                [&nodes[..], &[Segment::Place(1), key("port")]].concat(),
                Some(12),
            ),
            (
                vec![key("clusters"), key("main"), key("pool"), key("size")],
                Some(13),
            ),
            (vec![key("clusters"), key("7"), key("zone")], Some(15)),
            // What does not exist stands where its parent does.
            (
                [&nodes[..], &[Segment::Place(1), key("weight")]].concat(),
                Some(8),
            ),
            ([&nodes[..], &[Segment::Place(9)]].concat(), Some(5)),
            (vec![key("users")], None),
            (vec![], None),
        ] {
            let path = KeyPath(path);
            assert_eq!(locate(text, &path), line, "{path}");
        }
    }
}
