//! Read and write protobuf's wire format, as far as questions, statements and decisions need it.
//!
//! There is no generated code: questions are read without copying their text, and a message that is not in the one form
//! in which protobuf libraries write it is not read at all (`question`).

use crate::Malformed;

const CUT_SHORT: Malformed = Malformed("message is cut short");

/// The value of a field. `Other` is a value of 4 or 8 bytes, which none of our messages has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Varint(u64),
    /// Text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// A value of a fixed size.
    Other,
}

impl<'a> Value<'a> {
    /// Return the number.
    pub fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Varint(number) => Ok(number),
            _ => Err(Malformed("field is not a number")),
        }
    }

    /// Return the bytes.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("field is no text, bytes or message")),
        }
    }

    /// Return the text.
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text is not UTF-8"))
    }
}

/// The fields of a message, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    is_minimal: bool,
}

impl<'a> Fields<'a> {
    /// Begin with the first field of *message*.
    pub fn new(message: &'a [u8]) -> Self {
        Fields { rest: message, is_minimal: true }
    }

    /// Whether all numbers read so far were written in as few bytes as possible.
    pub fn is_minimal(&self) -> bool {
        self.is_minimal
    }

    /// Return the next field: its number and its value; None: the message ends here.
    pub fn read(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed("field number is out of range"))?;
        if number == 0 {
            return Err(Malformed("field number is 0"));
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)?;
                Value::Bytes(self.take(length)?)
            }
            1 => self.take(8).map(|_| Value::Other)?,
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Malformed("field has an unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        if length > self.rest.len() {
            return Err(CUT_SHORT);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for at in 0..10 {
            let byte = *self.rest.get(at).ok_or(CUT_SHORT)?;
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                self.is_minimal &= at == 0 || byte != 0;
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("number has more than 64 bits"))
    }
}

/// Return the numbers of a repeated field of numbers, packed or one of several.
pub fn numbers(value: Value<'_>, into: &mut Vec<u64>) -> Result<(), Malformed> {
    match value {
        Value::Varint(number) => into.push(number),
        Value::Bytes(bytes) => {
            let mut packed = Fields::new(bytes);
            while !packed.rest.is_empty() {
                into.push(packed.varint()?);
            }
        }
        Value::Other => return Err(Malformed("field is not a number")),
    }
    Ok(())
}

/// Append a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Append a number, unless it is 0.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value);
    }
}

/// Append bytes, also if they are empty.
pub fn put_item(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Append bytes, unless they are empty.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        put_item(out, field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        put_number(&mut out, 3, 300);
        put_number(&mut out, 4, 0);
        put_item(&mut out, 2, b"");
        put_bytes(&mut out, 15, "é".as_bytes());
        let mut fields = Fields::new(&out);
        assert_eq!(fields.read(), Ok(Some((3, Value::Varint(300)))));
        assert_eq!(fields.read(), Ok(Some((2, Value::Bytes(b"")))));
        let (number, value) = fields.read().unwrap().unwrap();
        assert_eq!((number, value.text()), (15, Ok("é")));
        assert_eq!(fields.read(), Ok(None));
        assert!(fields.is_minimal());
    }

    #[test]
    fn numbers_in_more_bytes_than_needed_are_seen() {
        let mut fields = Fields::new(&[0x08, 0x81, 0x00]);
        assert_eq!(fields.read(), Ok(Some((1, Value::Varint(1)))));
        assert!(!fields.is_minimal());
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        for message in [&[0x08][..], &[0x12, 0x02, 0x61], &[0x09, 0, 0], &[0x80], &[0x0F], &[0x00, 0x00]] {
            assert!(Fields::new(message).read().is_err(), "{message:?}");
        }
    }
}
