//! Whether a node is who it should be, as libpq's `sslmode` has it.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::Authorities;
use super::certificate::Certificate;

/// What is asked of a node's certificate.
#[derive(Debug, Clone)]
pub enum Verification {
    /// Nothing: the connection is encrypted, to whomever.
    None,
    /// That one of these authorities has signed it (`verify-ca`).
    Authority(Authorities),
    /// Also that it is the host's (`verify-full`).
    Host(Authorities),
}

#[derive(Debug)]
pub(super) struct NodeVerifier {
    verification: Verification,
    provider: Arc<CryptoProvider>,
}

impl NodeVerifier {
    pub(super) fn new(verification: Verification, provider: Arc<CryptoProvider>) -> Self {
        Self {
            verification,
            provider,
        }
    }

    fn signed(
        &self,
        authorities: &Authorities,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            certificate,
            &authorities.0,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.verification {
            Verification::None => {}
            Verification::Authority(authorities) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                self.signed(authorities, &certificate, intermediates, now)?;
            }
            Verification::Host(authorities) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                self.signed(authorities, &certificate, intermediates, now)?;
                names_host(&certificate, end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.verification {
            // Certificates of version 1, which the library does not read, are common among those
            // that nobody checks.
            Verification::None => {
                let parsed = Certificate::parse(certificate).ok_or(UNREADABLE)?;
                let key = SubjectPublicKeyInfoDer::from(parsed.public_key());
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            }
            Verification::Authority(_) | Verification::Host(_) => {
                verify_tls13_signature(message, certificate, signature, algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const UNREADABLE: Error = Error::InvalidCertificate(CertificateError::BadEncoding);

/// As libpq: the common name counts if there is no alternative name at all
/// (`pgtls_verify_peer_name_matches_certificate_guts`, `src/interfaces/libpq/fe-secure-openssl.c`).
fn names_host(
    certificate: &ParsedCertificate<'_>,
    der: &CertificateDer<'_>,
    host: &ServerName<'_>,
) -> Result<(), Error> {
    let refused = match verify_server_name(certificate, host) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let parsed = Certificate::parse(der).ok_or(UNREADABLE)?;
    if parsed.has_alternative_names() {
        return Err(refused);
    }
    let host = host.to_str();
    match parsed.common_name() {
        Some(name) if matches_name(&name, &host) => Ok(()),
        Some(_) | None => Err(refused),
    }
}

/// Whether `pattern`, whose first label may be `*`, names `host`.
fn matches_name(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let below = pattern.strip_prefix("*.").zip(host.split_once('.'));
    below.is_some_and(|(pattern, (label, host))| {
        !label.is_empty() && pattern.contains('.') && pattern.eq_ignore_ascii_case(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_names_a_host_whole_or_by_its_first_label() {
        for (pattern, host, matches) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "db", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("*.0.0.1", "10.0.0.1", true),
            ("", "db", false),
        ] {
            assert_eq!(matches_name(pattern, host), matches, "{pattern} {host}");
        }
    }
}
