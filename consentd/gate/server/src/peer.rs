//! Who is at the other end of a connection: an address, and the certificate that the client has shown.
//!
//! The names of a certificate count as `proto/callers.md` says. They are read here only if the certificate has the usual
//! form. Of any other one the daemon reads the names, so no rule about odd certificates has a second version.

use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

/// Most bytes of a certificate that counts: the header with it must fit into the daemon's limit (`max_metadata_size`).
const MOST_BYTES: usize = 6 << 10;
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const OBJECT_ID: u8 = 0x06;
/// `[3]` of a `TBSCertificate`: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.17, subject alternative names.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
/// Kinds of names: `dNSName`, `uniformResourceIdentifier`, `iPAddress`.
const HOST: u8 = 0x82;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;

/// The peer of a connection.
pub struct Peer {
    /// Its address, without the port.
    pub ip: IpAddr,
    /// Its address in gRPC's form.
    pub address: HeaderValue,
    /// Its certificate; None: it showed none, or one that is too long.
    pub certificate: Option<Certificate>,
}

/// A client's certificate, which was verified in the handshake.
pub struct Certificate {
    /// SHA-256 of its DER.
    pub hash: [u8; 32],
    /// Its names, in the form of registered names; None: the daemon must read them.
    pub names: Option<Vec<String>>,
    /// Its DER in base64.
    pub header: HeaderValue,
}

impl Peer {
    /// The peer at *address*, which has shown the certificate *der*.
    pub fn new(address: SocketAddr, der: Option<&[u8]>) -> Self {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let text = if ip.is_ipv4() { format!("ipv4:{ip}:{port}") } else { format!("ipv6:%5B{ip}%5D:{port}") };
        let address = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("ipv4:"));
        Peer { ip, address, certificate: der.and_then(Certificate::new) }
    }
}

impl Certificate {
    fn new(der: &[u8]) -> Option<Self> {
        if der.len() > MOST_BYTES {
            return None;
        }
        let header = HeaderValue::from_str(&base64(der)).ok()?;
        Some(Certificate { hash: Sha256::digest(der).into(), names: names(der), header })
    }
}

/// Return the first value of some DER, its kind, and what follows it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (first as usize, rest),
        0x81 | 0x82 => {
            let (stated, rest) = rest.split_at_checked(first as usize - 0x80)?;
            (stated.iter().fold(0, |length, byte| length << 8 | *byte as usize), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

/// Return the content of the only value in some DER, which is of a kind.
fn only(der: &[u8], kind: u8) -> Option<&[u8]> {
    value(der).and_then(|(found, content, rest)| (found == kind && rest.is_empty()).then_some(content))
}

/// Return the names of a certificate; None: it has not the usual form.
fn names(der: &[u8]) -> Option<Vec<String>> {
    let (SEQUENCE, mut fields, _) = value(only(der, SEQUENCE)?)? else { return None };
    let mut found = None;
    while let Some((kind, content, rest)) = value(fields) {
        if kind == EXTENSIONS {
            found = Some(content);
        }
        fields = rest;
    }
    let mut extensions = only(found?, SEQUENCE)?;
    let mut ids: Vec<&[u8]> = Vec::new();
    let mut alternatives = None;
    while !extensions.is_empty() {
        let (SEQUENCE, extension, rest) = value(extensions)? else { return None };
        extensions = rest;
        let (OBJECT_ID, id, mut stated) = value(extension)? else { return None };
        if ids.contains(&id) {
            return None;
        }
        ids.push(id);
        if let (BOOLEAN, _, rest) = value(stated)? {
            stated = rest;
        }
        if id == ALTERNATIVE_NAMES {
            alternatives = Some(only(only(stated, OCTETS)?, SEQUENCE)?);
        }
    }
    let mut left = alternatives?;
    let mut names = Vec::new();
    while !left.is_empty() {
        let (kind, content, rest) = value(left)?;
        left = rest;
        let text = std::str::from_utf8(content).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        match kind {
            HOST => names.push(format!("dns:{}", text?.to_ascii_lowercase())),
            URI => names.push(format!("uri:{}", text?)),
            ADDRESS if matches!(content.len(), 4 | 16) => {}
            _ => return None,
        }
    }
    Some(names)
}

/// Return bytes in base64 (RFC 4648), without padding, as gRPC has binary headers.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut found = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            found.push(LETTERS[(bits >> (18 - 6 * at)) as usize & 63] as char);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{base64, names, Peer};

    fn der(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        [&[kind, 0x82, (content.len() >> 8) as u8, content.len() as u8], content.as_slice()].concat()
    }

    fn certificate(extensions: &[&[u8]]) -> Vec<u8> {
        let serial = der(2, &[&[1]]);
        der(0x30, &[&der(0x30, &[&serial, &der(0xa3, &[&der(0x30, extensions)])]), &serial])
    }

    fn extension(id: &[u8], names: &[&[u8]]) -> Vec<u8> {
        der(0x30, &[&der(6, &[id]), &der(4, &[&der(0x30, names)])])
    }

    #[test]
    fn names_are_read_from_the_usual_form_alone() {
        let id = &[0x55, 0x1d, 0x11];
        let host = der(0x82, &[b"Clinic-B.example"]);
        let uri = der(0x86, &[b"spiffe://Realm/x"]);
        let one = extension(id, &[&host, &uri, &der(0x87, &[&[127, 0, 0, 1]])]);
        let expected = vec!["dns:clinic-b.example".to_owned(), "uri:spiffe://Realm/x".to_owned()];
        let whole = certificate(&[&one]);
        assert_eq!(names(&whole), Some(expected));
        for odd in [
            certificate(&[]),
            certificate(&[&one, &one]),
            certificate(&[&extension(&[0x55, 0x1d, 0x12], &[&host])]),
            certificate(&[&extension(id, &[&der(0xa0, &[&host])])]),
            certificate(&[&extension(id, &[&der(0x82, &[b"a\0b"])])]),
            certificate(&[&extension(id, &[&der(0x82, &[b"a b"])])]),
            certificate(&[&extension(id, &[&der(0x87, &[b"abc"])])]),
            [whole.as_slice(), &[0]].concat(),
        ] {
            assert_eq!(names(&odd), None);
        }
        for length in 0..whole.len() {
            let _ = names(&whole[..length]);
            let mut other = whole.clone();
            for changed in [0, 0x7f, 0x80, 0x82, 0x84, 0xff] {
                other[length] = changed;
                let _ = names(&other);
            }
        }
    }

    #[test]
    fn headers_have_grpcs_forms() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())),
            ["", "Zg", "Zm8", "Zm9v", "Zm9vYg"]
        );
        let address = |text: &str| Peer::new(text.parse().unwrap(), None).address;
        assert_eq!(address("192.0.2.1:5"), "ipv4:192.0.2.1:5");
        assert_eq!(address("[::ffff:192.0.2.1]:5"), "ipv4:192.0.2.1:5");
        assert_eq!(address("[2001:db8::1]:5"), "ipv6:%5B2001:db8::1%5D:5");
    }
}
