//! The messages of Envoy's external authorization (`envoy.service.auth.v3`), as far as a question needs them.
//!
//! Envoy's newer versions have further fields, which are not read. A field that may be there once is there once, or the
//! message is malformed: of two values, another reader might take the other one.

use consentd_core::wire::{put_item, put_number, Fields, Value};
use consentd_core::Malformed;
use consentd_mapping::{Claim, Request};

use crate::node::{put_struct, Node};

/// Where Envoy's filter for tokens puts the claims of those that it has verified.
const TOKENS: &str = "envoy.filters.http.jwt_authn";
/// How deep claims may be nested.
const MOST_DEPTH: usize = 16;
const TWICE: Malformed = Malformed("field is stated twice");
const FORBIDDEN: u64 = 403;
const PERMISSION_DENIED: u64 = 7;

/// Read a `CheckRequest`.
pub fn read_request(message: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut found = Request::default();
    let [attributes] = once(message, [1])?;
    let [source, request, metadata] = once(attributes.unwrap_or_default(), [1, 4, 11])?;
    let [principal] = once(source.unwrap_or_default(), [4])?;
    found.principal = text(principal.unwrap_or_default())?;
    let [http] = once(request.unwrap_or_default(), [2])?;
    let http = http.ok_or(Malformed("request is not of HTTP"))?;
    let [method, target, host, text_body, raw_body, listed] = once(http, [2, 4, 5, 11, 12, 13])?;
    found.has_body = [text_body, raw_body].iter().flatten().any(|body| !body.is_empty());
    (found.method, found.target) = (text(method.unwrap_or_default())?, text(target.unwrap_or_default())?);
    found.host = text(host.unwrap_or_default())?;
    // Headers are in a map, where Envoy joins those of one name, or in a list.
    for entry in all(http, 3)? {
        let [name, value] = once(entry, [1, 2])?;
        found.headers.push((text(name.unwrap_or_default())?, value.unwrap_or_default()));
    }
    for entry in all(listed.unwrap_or_default(), 1)? {
        let [name, value, raw] = once(entry, [1, 2, 3])?;
        let value = value.filter(|value| !value.is_empty()).or(raw).unwrap_or_default();
        found.headers.push((text(name.unwrap_or_default())?, value));
    }
    let mut tokens = None;
    for entry in all(metadata.unwrap_or_default(), 1)? {
        let [name, content] = once(entry, [1, 2])?;
        if name == Some(TOKENS.as_bytes()) && tokens.replace(content.unwrap_or_default()).is_some() {
            return Err(TWICE);
        }
    }
    found.claims = read_struct(tokens.unwrap_or_default(), 0)?;
    Ok(found)
}

/// Return the contents of fields that may be there once.
fn once<const N: usize>(message: &[u8], numbers: [u32; N]) -> Result<[Option<&[u8]>; N], Malformed> {
    let mut found = [None; N];
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.read()? {
        if let Some(at) = numbers.iter().position(|one| *one == number) {
            if found[at].replace(value.bytes()?).is_some() {
                return Err(TWICE);
            }
        }
    }
    Ok(found)
}

/// Return the contents of a repeated field.
fn all(message: &[u8], number: u32) -> Result<Vec<&[u8]>, Malformed> {
    let (mut found, mut fields) = (Vec::new(), Fields::new(message));
    while let Some((one, value)) = fields.read()? {
        if one == number {
            found.push(value.bytes()?);
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    Value::Bytes(bytes).text()
}

/// Read a `google.protobuf.Struct`.
fn read_struct(message: &[u8], depth: usize) -> Result<Claim<'_>, Malformed> {
    let mut found = Vec::new();
    for entry in all(message, 1)? {
        let [name, value] = once(entry, [1, 2])?;
        found.push((text(name.unwrap_or_default())?, read_value(value.unwrap_or_default(), depth + 1)?));
    }
    Ok(Claim::Map(found))
}

/// Read a `google.protobuf.Value`.
fn read_value(message: &[u8], depth: usize) -> Result<Claim<'_>, Malformed> {
    if depth > MOST_DEPTH {
        return Err(Malformed("claims are nested too deep"));
    }
    let mut fields = Fields::new(message);
    let found = match fields.read()? {
        Some((3, value)) => Claim::Text(value.text()?),
        Some((5, value)) => read_struct(value.bytes()?, depth)?,
        Some((6, value)) => {
            let items = all(value.bytes()?, 1)?;
            Claim::List(items.into_iter().map(|item| read_value(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        _ => Claim::Other,
    };
    match fields.read()? {
        None => Ok(found),
        Some(_) => Err(TWICE),
    }
}

/// Return the `CheckResponse` that lets a request pass with these headers in the place of the client's own, and without
/// those to be removed.
pub fn allowed(headers: &[(&str, String)], removed: &[&str], metadata: &[(&'static str, Node<'_>)]) -> Vec<u8> {
    let (mut out, mut ok) = (Vec::new(), Vec::new());
    put_item(&mut out, 1, &[]);
    put_headers(&mut ok, headers);
    removed.iter().for_each(|name| put_item(&mut ok, 5, name.as_bytes()));
    put_item(&mut out, 3, &ok);
    put_item(&mut out, 4, &put_struct(metadata));
    out
}

/// Return the `CheckResponse` that refuses a request with these headers.
pub fn denied(headers: &[(&str, String)], metadata: &[(&'static str, Node<'_>)]) -> Vec<u8> {
    let (mut out, mut status, mut denied) = (Vec::new(), Vec::new(), Vec::new());
    put_number(&mut status, 1, PERMISSION_DENIED);
    put_item(&mut out, 1, &status);
    let mut code = Vec::new();
    put_number(&mut code, 1, FORBIDDEN);
    put_item(&mut denied, 1, &code);
    put_headers(&mut denied, headers);
    put_item(&mut out, 2, &denied);
    put_item(&mut out, 4, &put_struct(metadata));
    out
}

/// Append headers (`HeaderValueOption`), each in the place of all of its name.
fn put_headers(out: &mut Vec<u8>, headers: &[(&str, String)]) {
    for (name, value) in headers {
        let (mut header, mut option) = (Vec::new(), Vec::new());
        put_item(&mut header, 1, name.as_bytes());
        put_item(&mut header, 2, value.as_bytes());
        put_item(&mut option, 1, &header);
        put_item(&mut option, 2, &[]); // `append` is false
        put_item(out, 2, &option);
    }
}

#[cfg(test)]
mod tests {
    use consentd_core::wire::put_item;
    use consentd_mapping::Claim;

    use super::read_request;

    fn item(field: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_item(&mut out, field, content);
        out
    }

    fn entry(name: &str, value: &[u8]) -> Vec<u8> {
        [item(1, name.as_bytes()), item(2, value)].concat()
    }

    fn message(http: &[u8], claims: &[u8]) -> Vec<u8> {
        let metadata = item(11, &item(1, &entry("envoy.filters.http.jwt_authn", claims)));
        let source = item(1, &item(4, b"spiffe://realm/clinic-b"));
        item(1, &[source, item(4, &item(2, http)), metadata].concat())
    }

    fn http() -> Vec<u8> {
        let listed = item(13, &item(1, &[item(1, b"x-b"), item(3, b"\xff")].concat()));
        [item(2, b"GET"), item(3, &entry("x-a", b"1")), item(4, b"/a?b=c"), listed].concat()
    }

    #[test]
    fn a_request_is_read() {
        let claims = item(1, &entry("login", &item(5, &item(1, &entry("org", &item(3, b"clinic-b"))))));
        let content = message(&http(), &claims);
        let found = read_request(&content).unwrap();
        assert_eq!((found.method, found.target, found.principal), ("GET", "/a?b=c", "spiffe://realm/clinic-b"));
        assert_eq!(found.headers, [("x-a", &b"1"[..]), ("x-b", &b"\xff"[..])]);
        let login = Claim::Map(vec![("org", Claim::Text("clinic-b"))]);
        assert_eq!(found.claims, Claim::Map(vec![("login", login)]));
    }

    #[test]
    fn what_is_stated_twice_or_nested_too_deep_is_malformed() {
        let twice = [http(), item(4, b"/other")].concat();
        assert!(read_request(&message(&twice, &[])).is_err());
        assert!(read_request(&[message(&http(), &[]), message(&http(), &[])].concat()).is_err());
        assert!(
            read_request(&message(&http(), &item(1, &entry("a", &[item(3, b"x"), item(3, b"y")].concat())))).is_err()
        );
        let mut value = item(3, b"x");
        for _ in 0..2_000 {
            value = item(6, &item(1, &value));
        }
        assert!(read_request(&message(&http(), &item(1, &entry("a", &value)))).is_err());
        assert!(read_request(&[]).is_err());
    }

    #[test]
    fn garbage_is_a_request_or_malformed() {
        let whole = message(&http(), &item(1, &entry("login", &item(6, &item(1, &item(3, b"x"))))));
        let mut seed = 7u64;
        for round in 0..200_000u64 {
            let mut other = whole.clone();
            for _ in 0..=round % 4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % other.len();
                match seed >> 62 {
                    0 => other[at] = (seed >> 20) as u8,
                    1 if other.len() > 1 => drop(other.remove(at)),
                    2 => other.insert(at, (seed >> 20) as u8),
                    _ => other.truncate(at.max(1)), // it never gets empty
                }
            }
            let _ = read_request(&other);
        }
    }
}
