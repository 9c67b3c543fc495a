//! Cancels what runs on a server connection.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;

use crate::backend::connect::{NodeAddress, NodeEncryption, open_again};
use crate::backend::connection::BackendConnection;
use crate::protocol::message::write_counted;
use crate::wire::socket::Socket;

/// `CANCEL_REQUEST_CODE`, `PG_PROTOCOL(1234, 5678)`, of `src/include/libpq/pqcomm.h`.
const CANCEL_REQUEST: i32 = (1234 << 16) + 5678;

/// Everything a cancel request needs, apart from the connection that it is about.
#[derive(Clone)]
pub struct CancelTarget {
    /// The very address that the connection leads to.
    pub peer: NodeAddress,
    /// How the request is encrypted; `None` if the connection itself is not.
    pub encryption: Option<NodeEncryption>,
    /// The process on the node.
    pub process_id: i32,
    /// Its secret.
    pub key: Box<[u8]>,
}

impl std::fmt::Debug for CancelTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut target = f.debug_struct("CancelTarget");
        target.field("peer", &self.peer);
        target
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

impl From<&BackendConnection> for CancelTarget {
    fn from(connection: &BackendConnection) -> Self {
        Self {
            peer: connection.peer.clone(),
            encryption: connection.encryption.clone(),
            process_id: connection.process_id,
            key: connection.cancel_key.clone(),
        }
    }
}

impl CancelTarget {
    /// Asks the node to cancel what runs there, and waits until it has taken notice: afterwards the
    /// signal has been sent, so a later query of the same process is not hit by it.
    ///
    /// # Errors
    /// When the node is not reached or `deadline` passes first.
    pub async fn cancel(&self, deadline: Instant) -> io::Result<()> {
        let request = async {
            let plain = open_again(&self.peer).await.map_err(io::Error::other)?;
            let socket = match &self.encryption {
                None => Socket::Plain(plain),
                Some(encryption) => {
                    let encrypted = encryption.require(plain).await;
                    encrypted.map_err(io::Error::other)?
                }
            };
            send(socket, self.process_id, &self.key).await
        };
        within(deadline, request).await
    }
}

async fn within(
    deadline: Instant,
    request: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let done = timeout_at(deadline.into(), request).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends the request and waits for the close: the node never answers (manual, "Canceling Requests
/// in Progress").
async fn send(mut stream: Socket, process_id: i32, key: &[u8]) -> io::Result<()> {
    let mut request = Vec::with_capacity(16);
    write_counted(&mut request, |body| {
        body.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        body.extend_from_slice(&process_id.to_be_bytes());
        body.extend_from_slice(key);
    });
    stream.write_all(&request).await?;
    stream.flush().await?;
    match stream.read(&mut [0; 16]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        // The postmaster may close before it has read everything.
        Err(error)
            if matches!(
                error.kind(),
                // TLS may end without a word.
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn request_is_sent_and_the_close_awaited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CancelTarget {
            peer: NodeAddress::Tcp(listener.local_addr().unwrap()),
            encryption: None,
            process_id: 7,
            key: Box::from(*b"secret"),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let (done, got) = tokio::join!(target.cancel(deadline), async {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = [0; 18];
            peer.read_exact(&mut request).await.unwrap();
            request
        });
        done.unwrap();
        assert_eq!(&got, b"\0\0\0\x12\x04\xd2\x16\x2e\0\0\0\x07secret");
        assert!(!format!("{target:?}").contains("115"));
    }

    #[tokio::test]
    async fn a_node_that_does_not_close_hits_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CancelTarget {
            peer: NodeAddress::Tcp(listener.local_addr().unwrap()),
            encryption: None,
            process_id: 1,
            key: Box::from(*b"1234"),
        };
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = target.cancel(deadline).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
