//! Both sides of TLS against each other, over real sockets.

use std::pin::Pin;
use std::task::Poll;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::certificate::{Certificate, end_point};
use super::*;

/// An authority, and what it signed for `name`.
struct Signed {
    authority: String,
    certificate: String,
    key: String,
}

fn signed(name: &str, alternatives: &[&str]) -> Signed {
    let named = |name: &str, alternatives: &[&str]| {
        let alternatives: Vec<String> = alternatives.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut params = named("authority", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = named(name, alternatives).signed_by(&key, &issuer).unwrap();
    Signed {
        authority,
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

impl Signed {
    fn acceptor(&self) -> Acceptor {
        let identity = Identity::new(self.certificate.as_bytes(), self.key.as_bytes()).unwrap();
        Acceptor::new(&identity, None).unwrap()
    }

    fn authorities(&self) -> Authorities {
        Authorities::new(self.authority.as_bytes()).unwrap()
    }

    fn der(&self) -> Vec<u8> {
        Identity::certificates(self.certificate.as_bytes()).unwrap()[0].to_vec()
    }
}

/// A client's and a server's end of one encrypted connection, or why there is none.
async fn pair(
    server: &Signed,
    host: &str,
    verification: Verification,
) -> Result<(Socket, Socket), String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connector = Connector::new(verification, None).unwrap();
    let (acceptor, slots) = (server.acceptor(), Semaphore::new(1));
    let (client, server) = tokio::join!(
        connector.connect(host, PlainSocket::Unix(ours)),
        acceptor.accept(PlainSocket::Unix(theirs), Opening::Requested, &slots)
    );
    Ok((client.map_err(|error| error.to_string())?, server.unwrap()))
}

#[tokio::test]
async fn a_host_is_named_by_its_alternatives_or_else_by_the_common_name() {
    for (name, alternatives, host, accepted) in [
        ("x", &["db.test"] as &[&str], "db.test", true),
        ("x", &["*.db.test"], "a.db.test", true),
        ("x", &["10.0.0.1"], "10.0.0.1", true),
        ("db.test", &["other.test"], "db.test", false),
        ("db.test", &[], "db.test", true),
        ("*.db.test", &[], "a.db.test", true),
        ("10.0.0.1", &[], "10.0.0.1", true),
        ("db.test", &[], "other.test", false),
        ("fe80::1%eth0", &[], "fe80::1%eth0", false),
    ] {
        let server = signed(name, alternatives);
        let verification = Verification::Host(server.authorities());
        let done = pair(&server, host, verification).await;
        let shown = format!("{name} {alternatives:?} {host}: {:?}", done.as_ref().err());
        assert_eq!(done.is_ok(), accepted, "{shown}");
        // Who signed it is another question.
        let verification = Verification::Authority(server.authorities());
        assert!(pair(&server, host, verification).await.is_ok());
        let others = Verification::Authority(signed("x", &[]).authorities());
        assert!(pair(&server, host, others).await.is_err());
        assert!(pair(&server, host, Verification::None).await.is_ok());
    }
}

#[tokio::test]
async fn the_parts_of_a_certificate_are_found_and_damaged_ones_are_not() {
    let signed = signed("some body", &["a.test"]);
    let der = signed.der();
    let parsed = Certificate::parse(&der).unwrap();
    assert_eq!(parsed.common_name().as_deref(), Some("some body"));
    assert!(parsed.has_alternative_names());
    let without = self::signed("x\0y", &[]).der();
    let without = Certificate::parse(&without).unwrap();
    assert!(!without.has_alternative_names());
    assert_eq!(without.common_name(), None);
    // Signed with ECDSA and SHA-256.
    assert_eq!(end_point(&der).unwrap().len(), 32);
    for cut in 0..der.len() {
        assert!(Certificate::parse(&der[..cut]).is_none(), "{cut}");
    }
    for place in 0..der.len() {
        let mut damaged = der.clone();
        damaged[place] ^= 0x55;
        // Whatever it is now, nobody falls over it.
        if let Some(parsed) = Certificate::parse(&damaged) {
            let _ = (parsed.common_name(), parsed.has_alternative_names());
        }
    }
}

#[tokio::test]
async fn what_is_decrypted_counts_as_readable() {
    let server = signed("x", &[]);
    let (mut client, mut server) = pair(&server, "x", Verification::None).await.unwrap();
    assert!(client.is_silent());
    assert!(
        client
            .try_read(&mut [0; 8])
            .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    );
    // One record, of which a part is read: the rest is in no socket any more.
    server.write_all(b"0123456789").await.unwrap();
    server.flush().await.unwrap();
    client.readable().await.unwrap();
    assert!(!client.is_silent());
    let mut four = [0; 4];
    client.read_exact(&mut four).await.unwrap();
    assert!(!client.is_silent());
    client.readable().await.unwrap();
    let mut rest = [0; 100];
    assert_eq!(client.try_read(&mut rest).unwrap(), 6);
    assert_eq!(&rest[..6], b"456789");
    assert!(client.is_silent());
    // Two records are one read, as with a plain socket.
    for _ in 0..2 {
        server.write_all(b"abc").await.unwrap();
        server.flush().await.unwrap();
    }
    client.readable().await.unwrap();
    assert_eq!(client.try_read(&mut rest).unwrap(), 6);
    drop(server);
    client.readable().await.unwrap_err();
    assert!(!client.is_silent());
}

#[tokio::test]
async fn what_a_write_has_left_is_sent_while_an_answer_is_awaited() {
    let server = signed("x", &[]);
    let (mut client, mut server) = pair(&server, "x", Verification::None).await.unwrap();
    // Until neither the socket nor TLS takes more.
    let block = vec![7; 10_000];
    let mut taken = 0;
    let mut fill = |context: &mut std::task::Context<'_>| {
        while let Poll::Ready(count) = Pin::new(&mut server).poll_write(context, &block) {
            taken += count.unwrap();
        }
        Poll::Ready(())
    };
    std::future::poll_fn(&mut fill).await;
    assert!(taken > 100_000, "{taken}");
    let mut received = vec![0; taken];
    let both = async {
        tokio::select! {
            read = client.read_exact(&mut received) => read.map(drop),
            readable = server.readable() => readable,
        }
    };
    let done = timeout(std::time::Duration::from_secs(10), both).await;
    done.expect("everything arrives").unwrap();
    assert_eq!(received, vec![7; taken]);
}

#[test]
fn a_connection_goes_on_at_another_runtime() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (client, mut server) = first.block_on(async {
        let server = signed("x", &[]);
        let (client, mut server) = pair(&server, "x", Verification::None).await.unwrap();
        server.write_all(b"early").await.unwrap();
        server.flush().await.unwrap();
        (client, server)
    });
    let mut client = second.block_on(async {
        let mut early = [0; 100];
        let (mut client, read) = client.move_here(&mut early).unwrap();
        assert_eq!(read.unwrap(), 5);
        client.write_all(b"hello").await.unwrap();
        client.flush().await.unwrap();
        client
    });
    first.block_on(async {
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        server.write_all(b"late").await.unwrap();
        server.flush().await.unwrap();
    });
    second.block_on(async {
        let mut heard = [0; 4];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"late");
    });
}
