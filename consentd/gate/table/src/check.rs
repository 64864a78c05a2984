//! Answer questions from one state of the table, as `Check` answers them.

use blake2::digest::{consts::U32, KeyInit, Mac};
use blake2::Blake2bMac;

use consentd_core::answer::{encode, State};
use consentd_core::codebook::{check_names, pack, Packed};
use consentd_core::evaluate::{evaluate, reduce, undetermined, Verdict};
use consentd_core::identifier::is_plain;
use consentd_core::layers::{code, Outcome};
use consentd_core::parties::determine;
use consentd_core::question::{read_question, Question, Subject, MAX_QUESTION};
use consentd_core::subject::SubjectValue;
use consentd_core::Refused;

use crate::registry::Registry;
use crate::rows::{get, Fault, Revision, Source};

/// A tag that no person has.
const NO_TAG: [u8; 32] = [0; 32];
/// A number that no participant has.
const NOBODY: u32 = u32::MAX - 1;

/// Why a question is not answered here. The daemon, asked the same, gives the answer or the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnswered {
    /// The daemon refuses it, with this reason.
    Refused(&'static str),
    /// The message has another form than the one that is read here, or the identifier may be a resident number.
    OtherForm,
}

impl From<Refused> for NotAnswered {
    fn from(refused: Refused) -> Self {
        NotAnswered::Refused(refused.0)
    }
}

/// The key with which identifiers are hashed.
#[derive(Clone)]
pub struct IndexKey(Blake2bMac<U32>);

impl IndexKey {
    /// Take over the key; None: it is empty, or longer than 64 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.is_empty() {
            return None;
        }
        Blake2bMac::new_from_slice(key).ok().map(IndexKey)
    }

    /// Return the hash under which an identifier is found.
    pub fn identifier_hash(&self, scheme: &str, value: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(&[scheme.len() as u8]);
        mac.update(scheme.as_bytes());
        mac.update(value.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// Answers the questions of one caller from one state of the table, as of one time.
pub struct Answerer<'a, S> {
    /// The rows.
    pub source: &'a S,
    /// Their revision.
    pub revision: Revision,
    /// The registry of this revision.
    pub registry: &'a Registry,
    /// The key of identifier hashes.
    pub index_key: &'a IndexKey,
    /// Participant id of the caller; None: the person asks.
    pub caller: Option<&'a str>,
    /// The time of the decisions, UTC milliseconds.
    pub now_ms: u64,
}

impl<'a, S: Source> Answerer<'a, S> {
    /// Read and check a question, but for its subject. *emergency*: whether one of break-glass may be asked.
    pub fn check<'q>(
        &self,
        message: &'q [u8],
        emergency: bool,
    ) -> Result<(Packed<'q>, Option<Subject<'q>>), NotAnswered> {
        if message.len() > MAX_QUESTION {
            return Err(NotAnswered::OtherForm);
        }
        let question: Question<'q> = read_question(message).map_err(|_| NotAnswered::OtherForm)?;
        if !emergency && (question.has_justification || question.purpose == "BTG") {
            return Err(NotAnswered::Refused("BREAK_GLASS_SHAPE"));
        }
        check_names(&question, &self.registry.vocabulary)?;
        let parties = determine(&self.registry.directory, self.caller, &question, self.now_ms)?;
        Ok((pack(&question, &self.registry.vocabulary, parties)?, question.subject))
    }

    /// Return the identifier hash of a person; an error: the daemon must look at the identifier.
    pub fn identifier_hash(&self, subject: Option<Subject<'_>>) -> Result<[u8; 32], NotAnswered> {
        let Subject { scheme, value } = subject.unwrap_or_default();
        if !is_plain(scheme, value) {
            return Err(NotAnswered::OtherForm);
        }
        Ok(self.index_key.identifier_hash(scheme, value))
    }

    /// Append the `Decision` about a person to *out*; return the outcome for callers who see reasons, and how many
    /// provisions were read.
    pub fn answer(
        &self,
        out: &mut Vec<u8>,
        question: &Packed<'_>,
        identifier_hash: &[u8; 32],
        decision_id: &str,
    ) -> Result<(Outcome, usize), Fault> {
        let in_full = question.parties.sees_reasons;
        let placeholder = placeholder();
        let (verdict, tag, rows) = match self.evaluate(question, identifier_hash, in_full, &placeholder) {
            Err(Fault::Damaged) => (undetermined(question, code::DAMAGED_ROW), None, 0),
            other => other?,
        };
        let outcome = verdict.outcome;
        let verdict = if in_full { verdict } else { reduce(verdict, question) };
        let shown = tag.filter(|_| in_full || verdict.masks.permitted != 0).unwrap_or(&[]);
        let state = State {
            vocabulary: &self.registry.vocabulary,
            rules: &self.registry.rules,
            tree_size: self.revision.tree_size,
            root: &self.revision.root,
            now_ms: self.now_ms,
        };
        encode(out, &verdict, question, &state, shown, decision_id);
        Ok((outcome, if in_full { rows } else { 3 }))
    }

    #[allow(clippy::type_complexity)]
    fn evaluate(
        &self,
        question: &Packed<'_>,
        identifier_hash: &[u8; 32],
        in_full: bool,
        placeholder: &[u8],
    ) -> Result<(Verdict<'a>, Option<&'a [u8]>, usize), Fault> {
        let rules = &self.registry.rules;
        let Some(tag) = get(self.source, &keyed(b'i', identifier_hash))? else {
            // The time of an answer must not show who is enrolled. So a row is looked up that does not exist, and as
            // many provisions are evaluated as a person may have.
            let _ = get(self.source, &keyed(b's', &NO_TAG))?;
            if !in_full {
                evaluate(Some(placeholder), question, rules, self.now_ms)?;
            }
            return Ok((evaluate(None, question, rules, self.now_ms)?, None, 0));
        };
        let value = get(self.source, &keyed(b's', tag))?.ok_or(Fault::Damaged)?;
        let rows = SubjectValue::decode(value)?.rows;
        Ok((evaluate(Some(value), question, rules, self.now_ms)?, Some(tag), rows))
    }
}

fn keyed(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// Return a subject value of three consents that match no question.
fn placeholder() -> Vec<u8> {
    let mut value = vec![4, 1, 0, 0, 3, 0, 3, 0];
    for number in 1..=3u32 {
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
        value.extend_from_slice(&[0; 16]);
    }
    for _ in 0..3 {
        value.extend_from_slice(&NOBODY.to_le_bytes());
        value.extend_from_slice(&[0; 4]);
        value.extend_from_slice(&[0xFF; 16]);
        value.extend_from_slice(&[0; 8]);
        value.extend_from_slice(&(i64::MAX as u64).to_le_bytes());
        value.extend_from_slice(&[0; 4]);
        value.extend_from_slice(&[0xFF, 0xFF, 0, 0, 1, 0, 0, 0]);
    }
    value
}
