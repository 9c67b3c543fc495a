//! The two ends of a client's connection: what it is told behind its login, and before the socket is
//! closed.

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::cancel_keys::Registration;
use crate::limits::FAREWELL_TIMEOUT;
use crate::protocol::backend::tag;
use crate::protocol::message::{write_message, write_string};
use crate::wire::socket::Socket;

/// `BackendKeyData` (manual, "Message Formats").
const BACKEND_KEY_DATA: u8 = b'K';

/// A `ParameterStatus`.
pub fn write_parameter(out: &mut Vec<u8>, name: &str, value: &str) {
    write_message(out, tag::PARAMETER_STATUS, |body| {
        write_string(body, name.as_bytes());
        write_string(body, value.as_bytes());
    });
}

/// The `BackendKeyData` of a client.
pub fn write_cancel_key(out: &mut Vec<u8>, registration: &Registration) {
    write_message(out, BACKEND_KEY_DATA, |body| {
        body.extend_from_slice(&registration.process_id().to_be_bytes());
        body.extend_from_slice(registration.key());
    });
}

/// A node's own `ErrorResponse` with this body.
pub fn refusal(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, tag::ERROR, |out| out.extend_from_slice(body));
    out
}

/// Tells the client why its connection ends, and ends it. It may be gone already, or may not be reading;
/// there is nobody else to tell.
pub async fn part(client: &mut Socket, why: &[u8]) {
    let told = async {
        client.write_all(why).await?;
        client.shutdown().await
    };
    drop(timeout(FAREWELL_TIMEOUT, told).await);
}
