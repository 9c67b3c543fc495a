//! The inside of this layer, for fuzz targets.

use tokio::io::{AsyncRead, AsyncWrite, BufReader};

use super::authenticate::{Channel, Login, authenticate};
use super::error::ConnectError;
use super::login::NodeLogin;
use super::startup::{StartupParameters, startup_packet};
use crate::config::Secret;
use crate::credential::hashing::Hashing;

/// Logs in to a node over `stream`, behind the startup packet.
///
/// # Errors
/// As with a real node.
pub async fn log_in<S>(
    stream: S,
    user: &str,
    password: &str,
    hashing: &Hashing,
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let login = Login {
        user,
        with: &NodeLogin::with_password(Secret::new(password)),
        hashing,
        channel: Channel::Plain,
    };
    authenticate(&mut BufReader::new(stream), &login).await
}

/// The startup packet that a node would get, with its length field.
///
/// # Errors
/// When there cannot be one.
pub fn packet(
    user: &str,
    database: &str,
    parameters: &StartupParameters,
) -> Result<Vec<u8>, ConnectError> {
    startup_packet(user, database, parameters)
}
