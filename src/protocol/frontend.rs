//! Views of the messages that a client sends: borrowed, checked, never re-encoded.
//!
//! Formats: manual, "Message Formats".

use super::message::{Malformed, Reader, write_message, write_string};

/// Message types of the client, as bytes (`src/include/libpq/protocol.h`).
pub mod tag {
    /// Bind.
    pub const BIND: u8 = b'B';
    /// Close.
    pub const CLOSE: u8 = b'C';
    /// Describe.
    pub const DESCRIBE: u8 = b'D';
    /// Execute.
    pub const EXECUTE: u8 = b'E';
    /// `FunctionCall`.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Flush.
    pub const FLUSH: u8 = b'H';
    /// Parse.
    pub const PARSE: u8 = b'P';
    /// Query.
    pub const QUERY: u8 = b'Q';
    /// Sync.
    pub const SYNC: u8 = b'S';
    /// Terminate.
    pub const TERMINATE: u8 = b'X';
    /// `CopyDone`.
    pub const COPY_DONE: u8 = b'c';
    /// `CopyData`.
    pub const COPY_DATA: u8 = b'd';
    /// `CopyFail`.
    pub const COPY_FAIL: u8 = b'f';
}

/// A Parse message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// The SQL text.
    pub sql: &'a [u8],
    /// Count and object ids of the parameter types, as on the wire.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When a string is not terminated or the type list does not fill the rest of the body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.string()?;
        let sql = reader.string()?;
        let types = reader.rest();
        let count = usize::try_from(reader.int16()?).map_err(|_| Malformed)?;
        if reader.rest().len() != count * 4 {
            return Err(Malformed);
        }
        Ok(Self { name, sql, types })
    }
}

/// A Bind message's body, as far as the proxy reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Formats, parameters and result formats, as on the wire.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names.
    ///
    /// # Errors
    /// When a name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(Self {
            portal: reader.string()?,
            statement: reader.string()?,
            rest: reader.rest(),
        })
    }
}

/// Whether Describe or Close speaks of a statement or of a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
    /// Something that the protocol does not have.
    Unknown,
}

impl<'a> Named<'a> {
    /// Reads the body of a Describe or Close message.
    ///
    /// # Errors
    /// When there is no kind or the name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.byte()?;
        let name = reader.string()?;
        match kind {
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Ok(Self::Unknown),
        }
    }
}

/// The SQL text of a Query message.
///
/// # Errors
/// When the text is not terminated exactly at the end of the body.
pub fn query_text(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let text = reader.string()?;
    if reader.rest().is_empty() {
        Ok(text)
    } else {
        Err(Malformed)
    }
}

/// Appends a Parse message.
pub fn write_parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    write_message(out, tag::PARSE, |body| {
        write_string(body, name);
        write_string(body, sql);
        body.extend_from_slice(types);
    });
}

/// Appends a Bind message that differs from the client's in the statement's name.
pub fn write_bind(out: &mut Vec<u8>, bind: Bind<'_>, statement: &[u8]) {
    write_message(out, tag::BIND, |body| {
        write_string(body, bind.portal);
        write_string(body, statement);
        body.extend_from_slice(bind.rest);
    });
}

/// Appends a Describe (`tag::DESCRIBE`) or Close (`tag::CLOSE`) of a statement.
pub fn write_named_statement(out: &mut Vec<u8>, message: u8, statement: &[u8]) {
    write_message(out, message, |body| {
        body.push(b'S');
        write_string(body, statement);
    });
}

/// Appends a Query message.
pub fn write_query(out: &mut Vec<u8>, sql: &[u8]) {
    write_message(out, tag::QUERY, |body| write_string(body, sql));
}

/// A Sync message.
pub const SYNC: [u8; 5] = [tag::SYNC, 0, 0, 0, 4];

/// A Flush message.
pub const FLUSH: [u8; 5] = [tag::FLUSH, 0, 0, 0, 4];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lying_bodies_are_malformed() {
        for body in [
            &b""[..],
            b"a",
            b"a\0b",
            b"a\0b\0",
            b"a\0b\0\0",
            b"a\0b\0\0\x01",
            b"a\0b\0\xff\xff",
        ] {
            assert_eq!(Parse::read(body), Err(Malformed), "{body:?}");
        }
        assert_eq!(Bind::read(b"p\0s"), Err(Malformed));
        assert_eq!(Named::read(b"Xname\0"), Ok(Named::Unknown));
        assert_eq!(Named::read(b"Sname"), Err(Malformed));
        assert_eq!(Named::read(b""), Err(Malformed));
        assert_eq!(query_text(b"SELECT 1"), Err(Malformed));
        assert_eq!(query_text(b"SELECT 1\0x"), Err(Malformed));
    }

    #[test]
    fn a_renamed_bind_keeps_everything_else() {
        let bind = Bind::read(b"p\0s\0\0\0\0\0\0\0").unwrap();
        let mut out = Vec::new();
        write_bind(&mut out, bind, b"pgweir_1");
        assert_eq!(out, b"B\0\0\0\x15p\0pgweir_1\0\0\0\0\0\0\0");
        assert_eq!(
            Parse::read(b"n\0SELECT $1\0\0\x01\0\0\0\x17")
                .unwrap()
                .types
                .len(),
            6
        );
    }
}
