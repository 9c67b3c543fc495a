//! What a node says of a prepared statement: the types of its parameters and its result columns.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

use super::message::{Malformed, Reader};

/// The parameters and the result of a prepared statement, as it was described first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Count and object ids of the parameter types, as in a Parse message.
    pub types: Box<[u8]>,
    /// Its result.
    pub columns: Columns,
}

/// The result columns of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// It returns no rows.
    None,
    /// A digest of names, types and type modifiers.
    Digest(u64),
}

/// Where the first description of a statement is kept.
pub type Described = Arc<OnceLock<Description>>;

/// Whether a statement has the columns that it had when it was described first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It has, or that cannot be told.
    Same,
    /// It has others.
    Other,
}

impl Description {
    /// Reads the bodies of a `ParameterDescription`, and of the `RowDescription` behind it unless that
    /// was `NoData`.
    ///
    /// # Errors
    /// When either is malformed.
    pub fn read(parameters: &[u8], columns: Option<&[u8]>) -> Result<Self, Malformed> {
        let mut reader = Reader::new(parameters);
        let count = usize::try_from(reader.int16()?).map_err(|_| Malformed)?;
        if reader.rest().len() != count * 4 {
            return Err(Malformed);
        }
        Ok(Self {
            types: parameters.into(),
            columns: columns.map_or(Ok(Columns::None), Columns::read)?,
        })
    }
}

impl Columns {
    /// Reads the body of a `RowDescription`.
    ///
    /// What `equalTupleDescs` (`src/backend/access/common/tupdesc.c`) compares, as far as the protocol
    /// shows it: a statement stays good when its table is another one with the same columns.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let mut digest = DefaultHasher::new();
        for _ in 0..reader.int16()? {
            digest.write(reader.string()?);
            // A name may not hold this byte, so that no two lists of columns read the same.
            digest.write_u8(0);
            let (_table, _number) = (reader.int32()?, reader.int16()?);
            digest.write_i32(reader.int32()?);
            let _length = reader.int16()?;
            digest.write_i32(reader.int32()?);
            let _format = reader.int16()?;
        }
        if reader.rest().is_empty() {
            Ok(Self::Digest(digest.finish()))
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, table: i32, kind: i32, modifier: i32) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(&table.to_be_bytes());
        body.extend_from_slice(&1_i16.to_be_bytes());
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&4_i16.to_be_bytes());
        body.extend_from_slice(&modifier.to_be_bytes());
        body.extend_from_slice(&0_i16.to_be_bytes());
        body
    }

    fn columns(columns: &[Vec<u8>]) -> Columns {
        let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
        Columns::read(&[&count[..], &columns.concat()].concat()).unwrap()
    }

    #[test]
    fn columns_differ_by_name_type_and_modifier_and_not_by_their_table() {
        let before = columns(&[column("id", 1, 23, -1)]);
        assert_eq!(before, columns(&[column("id", 2, 23, -1)]));
        for other in [
            vec![],
            vec![column("id2", 1, 23, -1)],
            vec![column("id", 1, 20, -1)],
            vec![column("id", 1, 23, 8)],
            vec![column("id", 1, 23, -1), column("v", 1, 25, -1)],
        ] {
            assert_ne!(before, columns(&other), "{other:?}");
        }
    }

    #[test]
    fn lying_bodies_are_malformed() {
        let mut long = vec![0, 1];
        long.extend(column("id", 1, 23, -1));
        for body in [
            &b""[..],
            b"\0",
            b"\0\x01",
            b"\0\x01id",
            b"\0\0x",
            &long[..10],
        ] {
            assert_eq!(Columns::read(body), Err(Malformed), "{body:?}");
        }
        for types in [&b""[..], b"\0\x01", b"\0\x01\0\0\0", b"\xff\xff", b"\0\0\0"] {
            assert_eq!(Description::read(types, None), Err(Malformed), "{types:?}");
        }
        let read = Description::read(b"\0\x01\0\0\0\x17", Some(&long)).unwrap();
        assert_eq!(&*read.types, b"\0\x01\0\0\0\x17");
        assert_ne!(read.columns, Columns::None);
    }
}
