//! The few fields of an X.509 certificate that TLS libraries keep to themselves.
//!
//! Reads DER (X.690) with checked reads; whatever is not as RFC 5280, section 4.1, has it is `None`.
//! Says nothing about whether the certificate may be trusted.

use ring::digest::{SHA256, SHA384, SHA512, digest};

/// Tags (X.680, section 8).
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const UTF8_STRING: u8 = 0x0c;
    pub(super) const PRINTABLE_STRING: u8 = 0x13;
    pub(super) const IA5_STRING: u8 = 0x16;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    pub(super) const VERSION: u8 = 0xa0;
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// `id-ce-subjectAltName`, 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The parts of a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Certificate<'a> {
    subject: &'a [u8],
    public_key: &'a [u8],
    extensions: Option<&'a [u8]>,
    signature_algorithm: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Finds the parts.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(tag::SEQUENCE)?);
        let mut signed = Der(certificate.expect(tag::SEQUENCE)?);
        let mut algorithm = Der(certificate.expect(tag::SEQUENCE)?);
        let signature_algorithm = algorithm.expect(tag::OBJECT_IDENTIFIER)?;
        if signed.0.first() == Some(&tag::VERSION) {
            signed.next()?;
        }
        signed.expect(tag::INTEGER)?;
        // Signature algorithm, issuer and validity.
        for _ in 0..3 {
            signed.expect(tag::SEQUENCE)?;
        }
        let subject = signed.expect(tag::SEQUENCE)?;
        let public_key = signed.next().filter(|(tag, ..)| *tag == tag::SEQUENCE)?.2;
        let mut extensions = None;
        while let Some((found, content, _)) = signed.next() {
            if found == tag::EXTENSIONS {
                extensions = Some(Der(content).expect(tag::SEQUENCE)?);
            }
        }
        Some(Self {
            subject,
            public_key,
            extensions,
            signature_algorithm,
        })
    }

    /// `SubjectPublicKeyInfo`, whole.
    pub fn public_key(&self) -> &'a [u8] {
        self.public_key
    }

    /// The common name of the subject; `None` also if there are several, or one that is not text.
    pub fn common_name(&self) -> Option<String> {
        let mut names = Vec::new();
        let mut subject = Der(self.subject);
        while let Some((tag::SET, content, _)) = subject.next() {
            let mut attributes = Der(content);
            while let Some((tag::SEQUENCE, attribute, _)) = attributes.next() {
                let mut attribute = Der(attribute);
                if attribute.expect(tag::OBJECT_IDENTIFIER)? == COMMON_NAME {
                    names.push(attribute.next()?);
                }
            }
        }
        match names.as_slice() {
            [(tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING, text, _)] => {
                let text = std::str::from_utf8(text).ok()?;
                // Where a NUL ends a string, the name would be another (CVE-2009-4034).
                (!text.contains('\0')).then(|| text.to_owned())
            }
            _ => None,
        }
    }

    /// Whether there is a subject alternative name, of whatever kind.
    pub fn has_alternative_names(&self) -> bool {
        let mut extensions = Der(self.extensions.unwrap_or_default());
        while let Some((tag::SEQUENCE, extension, _)) = extensions.next() {
            let mut extension = Der(extension);
            if extension.expect(tag::OBJECT_IDENTIFIER) == Some(ALTERNATIVE_NAMES) {
                return true;
            }
        }
        false
    }
}

/// The data of channel binding `tls-server-end-point` (RFC 5929, section 4.1) for the certificate
/// `der`; `None` for a signature algorithm that has no one hash, or one that is not known here.
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA1: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    const ECDSA_SHA2: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

    let oid = Certificate::parse(der)?.signature_algorithm;
    let hash = if let Some(kind) = oid.strip_prefix(&RSA) {
        // MD5 and SHA-1 are replaced by SHA-256.
        match kind {
            [4 | 5 | 11] => &SHA256,
            [12] => &SHA384,
            [13] => &SHA512,
            _ => return None,
        }
    } else if oid == ECDSA_SHA1 {
        &SHA256
    } else {
        match oid.strip_prefix(&ECDSA_SHA2)? {
            [2] => &SHA256,
            [3] => &SHA384,
            [4] => &SHA512,
            _ => return None,
        }
    };
    Some(digest(hash, der).as_ref().to_vec())
}

/// Values that are still to be read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag, content and the whole of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Certificates of more than 16 MiB do not pass a handshake.
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits.iter().fold(0, |sum, &d| (sum << 8) | usize::from(d));
                (length, rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - after.len())?;
        self.0 = after;
        Some((tag, content, whole))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content, _) = self.next()?;
        (tag == wanted).then_some(content)
    }
}
