//! TLS to clients ([`Acceptor`]) and to nodes ([`Connector`]), from what PEM files hold.
//!
//! Invariants:
//! * Private keys are never printed.
//! * Sessions are not resumed, as in PostgreSQL: every handshake proves everything again.
//! * A peer's certificate is read with checked reads only.
//!
//! Must not read files or decide whether TLS is wanted.
//!
//! Manual: "SSL Support" of libpq (libpq-ssl.html) and "Secure TCP/IP Connections with SSL"
//! (ssl-tcp.html).

pub mod certificate;
mod verifier;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use pgwire::api::auth::sasl::scram::ScramServerAuth;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig, server,
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::limits::TLS_HANDSHAKE_TIMEOUT;
use crate::wire::socket::{PlainSocket, Socket};

use verifier::NodeVerifier;
pub use verifier::Verification;

/// The application protocol that PostgreSQL's clients and servers name since version 17 (manual,
/// "SSL Session Encryption").
const ALPN: &[u8] = b"postgresql";

/// The first byte of a TLS connection: the record type `handshake` (RFC 8446, section 5.1).
pub const FIRST_BYTE: u8 = 0x16;

/// What a PEM file should hold and does not. `Display` completes "the file ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    /// No certificate.
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    /// No key, or one that needs a passphrase.
    #[error("holds no private key in PEM form, or an encrypted one")]
    NoKey,
    /// A damaged section.
    #[error("is not valid PEM")]
    Damaged,
    /// The key is another certificate's.
    #[error("holds a key that does not belong to the certificate")]
    Mismatch,
    /// The library cannot use it.
    #[error("cannot be used: {0}")]
    Unusable(String),
}

impl From<RustlsError> for PemFault {
    fn from(error: RustlsError) -> Self {
        if error == RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) {
            Self::Mismatch
        } else {
            Self::Unusable(error.to_string())
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate, those between it and its authority, and its private key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    /// As in the file; what channel binding is computed from.
    certificate_pem: Arc<[u8]>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads a certificate, its own first.
    ///
    /// # Errors
    /// What is wrong with the file of the certificate.
    pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFault> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(PemFault::NoCertificate),
            Ok(certificates) => Ok(certificates),
            Err(_) => Err(PemFault::Damaged),
        }
    }

    /// Joins certificate and key.
    ///
    /// # Errors
    /// What is wrong with the file of the key.
    pub fn new(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, PemFault> {
        let certificates = Self::certificates(certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
            if matches!(error, pem::Error::NoItemsFound) {
                PemFault::NoKey
            } else {
                PemFault::Damaged
            }
        })?;
        let key = CertifiedKey::from_der(certificates, key, &provider())?;
        Ok(Self {
            key: Arc::new(key),
            certificate_pem: certificate_pem.into(),
        })
    }
}

/// Certificates of authorities that are trusted.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(pem: &[u8]) -> Result<Self, PemFault> {
        let mut roots = RootCertStore::empty();
        for certificate in Identity::certificates(pem)? {
            roots.add(certificate)?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

/// How an encrypted connection was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// After an `SSLRequest`, which was answered `S`.
    Requested,
    /// At once; these bytes of it have been read. The client must name the protocol (ALPN), so that
    /// a connection meant for another kind of server is not taken (`backend_startup.c`).
    Direct(&'a [u8]),
}

/// Accepts encrypted connections of clients.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    binding: Option<ScramServerAuth>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Shows `identity`; asks for certificates if there are `authorities`, and takes only those
    /// that one of them has signed, or none.
    ///
    /// # Errors
    /// When the library cannot use what it is given.
    pub fn new(identity: &Identity, authorities: Option<&Authorities>) -> Result<Self, PemFault> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(Authorities(roots)) => {
                let roots = Arc::clone(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build();
                let verifier = verifier.map_err(|error| PemFault::Unusable(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = SingleCertAndKey::from(Arc::clone(&identity.key));
        let mut config = builder.with_cert_resolver(Arc::new(key));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // Certificates whose signature has no hash of its own (Ed25519) cannot be bound to.
        let mut scram = ScramServerAuth::new();
        let bound = scram.configure_certificate(&identity.certificate_pem);
        Ok(Self {
            config: Arc::new(config),
            binding: bound.is_ok().then_some(scram),
        })
    }

    /// The server's side of SCRAM that is bound to this certificate; `None` if it cannot be.
    pub const fn binding(&self) -> Option<&ScramServerAuth> {
        self.binding.as_ref()
    }

    /// Does the handshake with a client. Once the client has spoken, it needs one of `slots` and
    /// must be done within `TLS_HANDSHAKE_TIMEOUT`. The caller sets a deadline for the whole.
    ///
    /// # Errors
    /// When the socket fails, or the client does not speak TLS, has no acceptable certificate, or
    /// does not name the protocol where it must.
    ///
    /// # Cancel safety
    /// When the future is dropped the socket is closed.
    pub async fn accept(
        &self,
        socket: PlainSocket,
        opening: Opening<'_>,
        slots: &Semaphore,
    ) -> io::Result<Socket> {
        let mut hello = server::Acceptor::default();
        if let Opening::Direct(mut read) = opening {
            while !read.is_empty() {
                hello.read_tls(&mut read)?;
            }
        }
        let begun = LazyConfigAcceptor::new(hello, socket).await?;
        let _slot = slots.acquire().await.map_err(io::Error::other)?;
        let finishing = begun.into_stream(Arc::clone(&self.config));
        let stream = timeout(TLS_HANDSHAKE_TIMEOUT, finishing)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        let protocol = stream.get_ref().1.alpn_protocol();
        match opening {
            Opening::Requested => {}
            Opening::Direct(_) if protocol == Some(ALPN) => {}
            Opening::Direct(_) => {
                let why = "direct TLS connection without ALPN protocol negotiation extension";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(Socket::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// Opens encrypted connections to nodes.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Checks nodes as `verification` says and shows them `identity` if they ask for it.
    ///
    /// # Errors
    /// When the library cannot use what it is given.
    pub fn new(verification: Verification, identity: Option<&Identity>) -> Result<Self, PemFault> {
        let provider = provider();
        let verifier = NodeVerifier::new(verification, Arc::clone(&provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = SingleCertAndKey::from(Arc::clone(&identity.key));
                builder.with_client_cert_resolver(Arc::new(key))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Does the handshake with the node at `host`. The caller sets the deadline.
    ///
    /// # Errors
    /// When the socket fails, or the node does not speak TLS or does not prove what it must.
    ///
    /// # Cancel safety
    /// When the future is dropped the socket is closed.
    pub async fn connect(&self, host: &str, socket: PlainSocket) -> io::Result<Socket> {
        // What is neither a name nor an address (an IPv6 address with its zone) is not told to the
        // node, and matches no certificate.
        let nowhere = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let name = ServerName::try_from(host.to_owned()).unwrap_or(nowhere);
        let stream = self.0.connect(name, socket).await?;
        Ok(Socket::Tls(Box::new(TlsStream::Client(stream))))
    }
}

#[cfg(test)]
mod tests;
