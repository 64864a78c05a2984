//! Values without a schema, as JSON and as `google.protobuf.Struct`.

use std::fmt::Write;

use consentd_core::wire::put_item;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'a> {
    /// Text.
    Text(&'a str),
    /// Text of our own making.
    Owned(String),
    /// Several values.
    List(Vec<Node<'a>>),
    /// Values by their names.
    Map(Vec<(&'static str, Node<'a>)>),
}

impl Node<'_> {
    /// Append the value as JSON, in ASCII, without spaces.
    pub fn put_json(&self, out: &mut String) {
        match self {
            Node::Text(text) => put_text(out, text),
            Node::Owned(text) => put_text(out, text),
            Node::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    item.put_json(out);
                }
                out.push(']');
            }
            Node::Map(entries) => {
                out.push('{');
                for (at, (name, value)) in entries.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    put_text(out, name);
                    out.push(':');
                    value.put_json(out);
                }
                out.push('}');
            }
        }
    }

    /// Return the bytes of a `google.protobuf.Value`.
    fn value(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Node::Text(text) => put_item(&mut out, 3, text.as_bytes()),
            Node::Owned(text) => put_item(&mut out, 3, text.as_bytes()),
            Node::List(items) => {
                let mut list = Vec::new();
                items.iter().for_each(|item| put_item(&mut list, 1, &item.value()));
                put_item(&mut out, 6, &list);
            }
            Node::Map(entries) => put_item(&mut out, 5, &put_struct(entries)),
        }
        out
    }
}

/// Return the bytes of a `google.protobuf.Struct`.
pub fn put_struct(entries: &[(&'static str, Node<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries {
        let mut entry = Vec::new();
        put_item(&mut entry, 1, name.as_bytes());
        put_item(&mut entry, 2, &value.value());
        put_item(&mut out, 1, &entry);
    }
    out
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(one @ (b'"' | b'\\')) => out.extend(['\\', char::from(one)]),
            Ok(one @ b' '..=b'~') => out.push(char::from(one)),
            _ => {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{put_struct, Node};

    #[test]
    fn values_have_both_forms() {
        let list = Node::List(vec![Node::Text("a\"\\\n"), Node::Owned("é😀".to_owned())]);
        let node = Node::Map(vec![("x", list), ("y", Node::Map(vec![]))]);
        let mut json = String::new();
        node.put_json(&mut json);
        assert_eq!(json, r#"{"x":["a\"\\\u000a","\u00e9\ud83d\ude00"],"y":{}}"#);
        assert_eq!(put_struct(&[("k", Node::Text("v"))]), b"\x0a\x08\x0a\x01k\x12\x03\x1a\x01v");
    }
}
