//! Bytes: frames, views of messages, expected replies.
//!
//! Invariants:
//! * Frame first: a body is only ever looked at as a slice of exactly one frame.
//! * Every read of a body is checked; a lying length is an error, never a panic.
//! * Nothing here reads a socket, knows SQL or re-encodes what is forwarded unchanged.
//!
//! Message formats: manual, "Message Formats" (protocol-message-formats.html).

pub mod backend;
pub mod description;
pub mod frame;
pub mod frontend;
pub mod message;
pub mod outstanding;
pub mod replies;
pub mod segment;
pub mod startup;
