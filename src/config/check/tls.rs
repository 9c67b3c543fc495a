//! `client_tls` and `server_tls`.

use crate::config::raw::{Field, Misfit, Section};
use crate::config::tls::{NodeTls, ServerTlsMode, Written};
use crate::config::{ClientTls, ServerTls};
use crate::tls::{Acceptor, Authorities, Connector, Identity, PemFault, Verification};

/// `client_tls:`, and whether clients are asked for certificates.
pub(super) struct ReadClientTls {
    pub(super) tls: ClientTls,
    pub(super) certificates: ClientCertificates,
}

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientCertificates {
    /// They are not.
    Ignored,
    /// They are, and what they show is verified.
    Verified,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientMode {
    Disable,
    Prefer,
    Require,
}

/// A certificate and its key, as read and as proved.
struct ReadIdentity {
    pem: [Vec<u8>; 2],
    identity: Identity,
}

/// `client_tls:`.
pub(super) fn client(field: &Field<'_>) -> ReadClientTls {
    const MODES: [(&str, ClientMode); 3] = [
        ("disable", ClientMode::Disable),
        ("prefer", ClientMode::Prefer),
        ("require", ClientMode::Require),
    ];
    let nothing = ReadClientTls {
        tls: ClientTls::Disable,
        certificates: ClientCertificates::Ignored,
    };
    let Some(section) = field.section() else {
        return nothing;
    };
    let mode = section.field("mode").word(&MODES);
    let mode = mode.unwrap_or(ClientMode::Disable);
    let needed = (mode != ClientMode::Disable).then_some("clients are shown it");
    let identity = identity(&section, needed);
    let authorities = section.field("client_ca");
    let authorities = read(&authorities, Authorities::new);
    section.finish();
    let (Some(read), true) = (identity, mode != ClientMode::Disable) else {
        return nothing;
    };
    let authorities = authorities.map(|(_, authorities)| authorities);
    let acceptor = match Acceptor::new(&read.identity, authorities.as_ref()) {
        Ok(acceptor) => acceptor,
        Err(fault) => {
            field.refuse(Misfit::new(fault.to_string()));
            return nothing;
        }
    };
    ReadClientTls {
        tls: match mode {
            ClientMode::Disable => ClientTls::Disable,
            ClientMode::Prefer => ClientTls::Prefer(acceptor),
            ClientMode::Require => ClientTls::Require(acceptor),
        },
        certificates: match authorities {
            None => ClientCertificates::Ignored,
            Some(_) => ClientCertificates::Verified,
        },
    }
}

/// `server_tls:`.
pub(super) fn server(field: &Field<'_>) -> ServerTls {
    const MODES: [(&str, ServerTlsMode); 5] = [
        ("disable", ServerTlsMode::Disable),
        ("prefer", ServerTlsMode::Prefer),
        ("require", ServerTlsMode::Require),
        ("verify-ca", ServerTlsMode::VerifyCa),
        ("verify-full", ServerTlsMode::VerifyFull),
    ];
    let section = field.section();
    let mode = section.as_ref().map(|section| section.field("mode"));
    let mode = mode.and_then(|mode| mode.word(&MODES));
    let mode = mode.unwrap_or(ServerTlsMode::Prefer);
    let (mut authorities, mut identity) = (None, None);
    if let Some(section) = section {
        authorities = trusted(section.field("ca"), mode);
        identity = self::identity(&section, None);
        section.finish();
    }
    let verification = match (mode, authorities.as_ref().map(|(_, found)| found.clone())) {
        (ServerTlsMode::Disable, _) => return ServerTls::Disable,
        (ServerTlsMode::VerifyFull, Some(authorities)) => Verification::Host(authorities),
        // As libpq has it: with authorities at hand, `require` checks as `verify-ca` does.
        (ServerTlsMode::Require | ServerTlsMode::VerifyCa, Some(authorities)) => {
            Verification::Authority(authorities)
        }
        // Missing authorities have been noted.
        (
            ServerTlsMode::Prefer
            | ServerTlsMode::Require
            | ServerTlsMode::VerifyCa
            | ServerTlsMode::VerifyFull,
            _,
        ) => Verification::None,
    };
    let shown = identity.as_ref().map(|read| &read.identity);
    let connector = match Connector::new(verification, shown) {
        Ok(connector) => connector,
        Err(fault) => {
            field.refuse(Misfit::new(fault.to_string()));
            return ServerTls::Disable;
        }
    };
    let written = Written {
        mode,
        authorities: authorities.map(|(pem, _)| pem),
        identity: identity.map(|read| read.pem),
    };
    let tls = NodeTls::new(connector, written);
    if mode == ServerTlsMode::Prefer {
        ServerTls::Prefer(tls)
    } else {
        ServerTls::Require(tls)
    }
}

/// `ca`, which only some modes look at.
fn trusted(field: Field<'_>, mode: ServerTlsMode) -> Option<(Vec<u8>, Authorities)> {
    match mode {
        ServerTlsMode::Disable | ServerTlsMode::Prefer if field.is_present() => {
            field.refuse(
                Misfit::new("is not looked at in this mode")
                    .hint("write mode: verify-full or verify-ca, or leave it out"),
            );
            None
        }
        ServerTlsMode::Disable | ServerTlsMode::Prefer | ServerTlsMode::Require => {
            read(&field, Authorities::new)
        }
        ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => {
            let field = field.required("a file with the authorities that sign the nodes");
            read(&field, Authorities::new)
        }
    }
}

/// `cert` and `key`: both or none, unless they are needed, for the reason given.
fn identity(section: &Section<'_>, needed: Option<&str>) -> Option<ReadIdentity> {
    let (certificate, key) = (section.field("cert"), section.field("key"));
    let (certificate, key) = match (certificate.is_present(), key.is_present(), needed) {
        (false, false, None) => return None,
        (_, _, Some(why)) => (certificate.required(why), key.required(why)),
        (_, _, None) => (
            certificate.required("a key alone is of no use"),
            key.required("a certificate alone is of no use"),
        ),
    };
    let certificate = read(&certificate, |pem| Identity::certificates(pem).map(|_| ()));
    let join = |key_pem: &[u8]| match &certificate {
        Some((pem, ())) => Identity::new(pem, key_pem).map(Some),
        None => Ok(None),
    };
    let (key, identity) = read(&key, join)?;
    Some(ReadIdentity {
        identity: identity?,
        pem: [certificate?.0, key],
    })
}

/// The contents of a file and what they mean.
fn read<T>(
    field: &Field<'_>,
    parse: impl FnOnce(&[u8]) -> Result<T, PemFault>,
) -> Option<(Vec<u8>, T)> {
    let pem = field.file()?;
    match parse(&pem) {
        Ok(meaning) => Some((pem, meaning)),
        Err(fault) => {
            field.refuse(Misfit::new(fault.to_string()));
            None
        }
    }
}
