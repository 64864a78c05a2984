//! Read a question from its message.
//!
//! Only the one form is read in which protobuf libraries write a message: fields in the order of their numbers, no
//! field twice, no default value, no longer numbers than needed, no unknown field. A question of another form means the
//! same, or has a field that might narrow it. The caller passes it on to the daemon, which decides what it is.

use crate::wire::{Fields, Value};
use crate::{Malformed, Refused};

/// Most bytes of a question (`question_bytes` in `proto/limits.toml`).
pub const MAX_QUESTION: usize = 4096;

/// A person, as questions name one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The scheme of the identifier.
    pub scheme: &'a str,
    /// The identifier.
    pub value: &'a str,
}

/// A question. Texts are those of the message.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// The person; None: the message names none.
    pub subject: Option<Subject<'a>>,
    /// Who wants the data.
    pub organisation: &'a str,
    /// Through which application.
    pub application: &'a str,
    /// For whom.
    pub on_behalf_of: &'a str,
    /// Through which relays.
    pub relays: Vec<&'a str>,
    /// Who has the data.
    pub holder: &'a str,
    /// The purpose.
    pub purpose: &'a str,
    /// The action; empty: collect.
    pub action: &'a str,
    /// The categories, as stated.
    pub categories: Vec<&'a str>,
    /// The labels; None: left open.
    pub labels: Option<Vec<&'a str>>,
    /// The resources; None: left open.
    pub resources: Option<Vec<&'a str>>,
    /// Start and end of the data period, as stated, 0: open; None: left open.
    pub data_period: Option<(i64, i64)>,
    /// Whether the question has a justification of an emergency access.
    pub has_justification: bool,
    /// The obligations that the caller can fulfil.
    pub obligations: Vec<u64>,
    /// The level; empty: left open.
    pub level: &'a str,
}

/// A message in another form than the one that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherForm;

impl From<Malformed> for OtherForm {
    fn from(_: Malformed) -> Self {
        OtherForm
    }
}

/// Reads the fields of one message, and checks their order.
struct Ordered<'a> {
    fields: Fields<'a>,
    last: u32,
}

impl<'a> Ordered<'a> {
    fn new(message: &'a [u8]) -> Self {
        Ordered { fields: Fields::new(message), last: 0 }
    }

    /// Return the next field. *repeated*: whether a field of this number may come again.
    fn read(&mut self, repeated: impl Fn(u32) -> bool) -> Result<Option<(u32, Value<'a>)>, OtherForm> {
        let found = self.fields.read()?;
        if !self.fields.is_minimal() {
            return Err(OtherForm);
        }
        if let Some((number, _)) = found {
            if number < self.last || (number == self.last && !repeated(number)) {
                return Err(OtherForm);
            }
            self.last = number;
        }
        Ok(found)
    }
}

fn stated(value: Value<'_>) -> Result<&str, OtherForm> {
    let text = value.text()?;
    if text.is_empty() {
        return Err(OtherForm);
    }
    Ok(text)
}

fn stated_number(value: Value<'_>) -> Result<u64, OtherForm> {
    match value.number()? {
        0 => Err(OtherForm),
        number => Ok(number),
    }
}

/// Read the message of a person.
pub fn read_subject(message: &[u8]) -> Result<Subject<'_>, OtherForm> {
    let mut found = Subject::default();
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|_| false)? {
        match number {
            1 => found.scheme = stated(value)?,
            2 => found.value = stated(value)?,
            _ => return Err(OtherForm),
        }
    }
    Ok(found)
}

/// Read a question.
pub fn read_question(message: &[u8]) -> Result<Question<'_>, OtherForm> {
    let mut found = Question::default();
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|number| number == 6)? {
        match number {
            1 => found.subject = Some(read_subject(value.bytes()?)?),
            2 => read_actor(value.bytes()?, &mut found)?,
            3 => found.holder = stated(value)?,
            4 => found.purpose = stated(value)?,
            5 => found.action = stated(value)?,
            6 => found.categories.push(value.text()?),
            7 => found.labels = Some(read_codes(value.bytes()?)?),
            8 => found.resources = Some(read_codes(value.bytes()?)?),
            9 => found.data_period = Some(read_period(value.bytes()?)?),
            10 => found.has_justification = read_justification(value.bytes()?)?,
            12 => {
                // Numbers of a repeated field are packed in the one form.
                let mut packed = Vec::new();
                crate::wire::numbers(Value::Bytes(value.bytes()?), &mut packed)?;
                let mut again = Vec::new();
                packed.iter().for_each(|number| crate::wire::put_varint(&mut again, *number));
                if packed.is_empty() || again != value.bytes()? {
                    return Err(OtherForm);
                }
                found.obligations = packed;
            }
            13 => found.level = stated(value)?,
            _ => return Err(OtherForm),
        }
    }
    Ok(found)
}

fn read_actor<'a>(message: &'a [u8], into: &mut Question<'a>) -> Result<(), OtherForm> {
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|number| number == 6)? {
        match number {
            1 => into.organisation = stated(value)?,
            2 | 3 => drop(stated(value)?), // the practitioner and the role, which decide nothing
            4 => into.application = stated(value)?,
            5 => into.on_behalf_of = stated(value)?,
            6 => into.relays.push(value.text()?),
            7 if value.number()? == 1 => {} // whether the access is automatic, which decides nothing
            _ => return Err(OtherForm),
        }
    }
    Ok(())
}

fn read_codes(message: &[u8]) -> Result<Vec<&str>, OtherForm> {
    let mut found = Vec::new();
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|number| number == 1)? {
        match number {
            1 => found.push(value.text()?),
            _ => return Err(OtherForm),
        }
    }
    Ok(found)
}

fn read_period(message: &[u8]) -> Result<(i64, i64), OtherForm> {
    let (mut start, mut end) = (0, 0);
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|_| false)? {
        match number {
            1 => start = stated_number(value)? as i64,
            2 => end = stated_number(value)? as i64,
            _ => return Err(OtherForm),
        }
    }
    Ok((start, end))
}

fn read_justification(message: &[u8]) -> Result<bool, OtherForm> {
    let mut fields = Ordered::new(message);
    while let Some((number, value)) = fields.read(|_| false)? {
        match number {
            1 => drop(stated(value)?),
            _ => return Err(OtherForm),
        }
    }
    Ok(true)
}

/// Return whether *text* is the reference of a resource, `Type/id` ("Provisions").
pub fn is_reference(text: &str) -> bool {
    let Some((kind, id)) = text.split_once('/') else { return false };
    let (kind, id) = (kind.as_bytes(), id.as_bytes());
    (1..=64).contains(&kind.len())
        && kind[0].is_ascii_uppercase()
        && kind.iter().all(u8::is_ascii_alphabetic)
        && (1..=64).contains(&id.len())
        && id.iter().all(|one| one.is_ascii_alphanumeric() || matches!(one, b'.' | b'-'))
}

/// Return the data period of a question with its open sides as the first and the last instant.
///
/// Refuses a period that does not end after it starts, or that states the number of an open side.
pub fn data_period((start, end): (i64, i64)) -> Result<(i64, i64), Refused> {
    let period = (if start == 0 { i64::MIN } else { start }, if end == 0 { i64::MAX } else { end });
    if period.1 <= period.0 || start == i64::MIN || end == i64::MAX {
        return Err(Refused("INVALID_CONSENT"));
    }
    Ok(period)
}
