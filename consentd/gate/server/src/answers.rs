//! Answer Check and BatchCheck from the table. What has no plain answer is the daemon's: None.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use consentd_core::codebook::Packed;
use consentd_core::parties::Participant;
use consentd_core::question::{read_subject, Subject};
use consentd_core::wire::{put_item, Fields, Value};
use consentd_table::check::{Answerer, IndexKey};
use consentd_table::lmdb::{Snapshot, Table};
use consentd_table::registry::Registry;
use consentd_table::rows::{get, u64_at, Fault};

use crate::clock::{wall_ms, Clock};
use crate::metrics::State;
use crate::peer::Certificate;
use crate::quota::Quota;

/// Most bytes of the answers of a batch (`batch_answer_bytes`), and most provisions that it evaluates
/// (`batch_provisions`).
const MOST_ANSWER_BYTES: usize = 3 << 20;
const MOST_PROVISIONS: usize = 200_000;

/// Kinds of credentials in the keys of rows `u`.
const TOKEN: u8 = 1;
const CERTIFICATE: u8 = 2;
/// Roles and rights of which a caller of Check has one, as bits: HOLDER, RECIPIENT, RELAY; SEE_REASONS,
/// ACT_FOR_SUBJECTS.
const ASKING_ROLES: u64 = 1 << 1 | 1 << 2 | 1 << 3;
const ASKING_RIGHTS: u64 = 1 << 2 | 1 << 3;

/// Which of the two is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One question.
    Check,
    /// Several questions, or one about several persons.
    BatchCheck,
}

/// What the daemon's configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How old the writer's heartbeat may be.
    pub max_silence_ms: u64,
    /// Most items of a batch.
    pub max_batch_items: usize,
    /// Most bytes of a request.
    pub max_message_bytes: usize,
}

/// Answers questions. Threads share it.
pub struct Answers {
    table: Table,
    index_key: IndexKey,
    limits: Limits,
    clock: Clock,
    quota: Quota,
    prefix: String,
    next: AtomicU64,
}

/// What a call shows of its caller. A token counts before a certificate.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A token.
    Token(&'a [u8]),
    /// The certificate of the connection.
    Certificate(&'a Certificate),
}

/// The questions of a request.
enum Asked<'a> {
    Each(Vec<&'a [u8]>),
    Shared(&'a [u8], Vec<Subject<'a>>),
}

impl Answers {
    /// Answer from *table*.
    pub fn new(table: Table, index_key: IndexKey, limits: Limits) -> Self {
        // The id of a decision that is not recorded must be unique, but not secret.
        let prefix = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let (clock, quota, next) = (Clock::new(), Quota::default(), AtomicU64::new(0));
        Answers { table, index_key, limits, clock, quota, prefix, next }
    }

    /// Answer a request of the holder of *credential*; None: the daemon must.
    ///
    /// *goes_on*: asked before each question; after a false one nothing is answered.
    pub fn answer(
        &self,
        method: Method,
        request: &[u8],
        credential: Credential<'_>,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<Vec<u8>> {
        if request.len() > self.limits.max_message_bytes {
            return None;
        }
        let asked = match method {
            Method::Check => Asked::Each(vec![only_field(request)?]),
            Method::BatchCheck => read_batch(request, self.limits.max_batch_items)?,
        };
        let answered = self.table.read(|snapshot, registry| {
            let times = (snapshot.revision.time_ms, snapshot.heartbeat_ms);
            let Some(now_ms) = self.clock.decision_ms(times.0, times.1, self.limits.max_silence_ms) else {
                return Ok(None);
            };
            let Some(caller) = caller_of(credential, snapshot, now_ms)? else { return Ok(None) };
            if !may_ask(caller, registry) {
                return Ok(None);
            }
            let answerer = Answerer {
                source: snapshot,
                revision: snapshot.revision,
                registry,
                index_key: &self.index_key,
                caller: Some(caller),
                now_ms,
            };
            self.answer_all(method, &asked, &answerer, caller, goes_on)
        });
        answered.ok().flatten()
    }

    /// Return the state of the table.
    pub fn state(&self) -> State {
        let found = self.table.read(|snapshot, _| {
            let (last_ms, heartbeat_ms) = (snapshot.revision.time_ms, snapshot.heartbeat_ms);
            let is_ready = self.clock.decision_ms(last_ms, heartbeat_ms, self.limits.max_silence_ms).is_some();
            Ok(State { heartbeat_ms, is_ready })
        });
        found.unwrap_or_default()
    }

    /// Return whose credential it is; Some(None): nobody's in force, or the daemon must say whose; None: the table cannot
    /// be read.
    pub fn holder(&self, credential: Credential<'_>) -> Option<Option<String>> {
        let found = self.table.read(|snapshot, _| Ok(caller_of(credential, snapshot, wall_ms())?.map(str::to_owned)));
        found.ok()
    }

    fn answer_all(
        &self,
        method: Method,
        asked: &Asked<'_>,
        answerer: &Answerer<'_, Snapshot<'_>>,
        caller: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let (most, now_ms) = (answerer.registry.persons_per_hour, answerer.now_ms);
        let mut out = Vec::new();
        let mut provisions = 0;
        let mut one = |question: &Packed<'_>, subject: Option<Subject<'_>>| -> Result<Option<()>, Fault> {
            let Ok(identifier_hash) = answerer.identifier_hash(subject) else { return Ok(None) };
            let is_counted = self.quota.count(caller, &identifier_hash, most, now_ms);
            if !is_counted || provisions >= MOST_PROVISIONS || !goes_on() {
                return Ok(None);
            }
            let mut decision = Vec::with_capacity(256);
            let (_, rows) = answerer.answer(&mut decision, question, &identifier_hash, &self.decision_id())?;
            provisions += rows;
            if method == Method::Check {
                put_item(&mut out, 1, &decision);
                return Ok(Some(()));
            }
            let mut result = Vec::with_capacity(decision.len() + 8);
            put_item(&mut result, 1, &decision);
            put_item(&mut out, 1, &result);
            Ok((out.len() <= MOST_ANSWER_BYTES).then_some(()))
        };
        match asked {
            Asked::Each(questions) => {
                for message in questions {
                    let Ok((question, subject)) = answerer.check(message, false) else { return Ok(None) };
                    if one(&question, subject)?.is_none() {
                        return Ok(None);
                    }
                }
            }
            Asked::Shared(message, subjects) => {
                let Ok((question, None)) = answerer.check(message, false) else { return Ok(None) };
                for subject in subjects {
                    if one(&question, Some(*subject))?.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(out))
    }

    fn decision_id(&self) -> String {
        format!("{}{:016x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Return whose credential a call has; None: it is nobody's, or the daemon must say whose.
fn caller_of<'s>(credential: Credential<'_>, rows: &'s Snapshot<'_>, now_ms: u64) -> Result<Option<&'s str>, Fault> {
    let (kind, hash) = match credential {
        Credential::Token(token) => (TOKEN, Sha256::digest(token).into()),
        Credential::Certificate(shown) => (CERTIFICATE, shown.hash),
    };
    let mut key = vec![b'u', kind];
    key.extend_from_slice(&hash);
    // A row for this very certificate counts before its names: one that has ended is refused whatever it names.
    match (get(rows, &key)?, credential) {
        (Some(row), _) => {
            let end_ms = u64_at(row, 0)?;
            let caller = row.get(9..).ok_or(Fault::Damaged).and_then(text)?;
            Ok((end_ms == 0 || now_ms < end_ms).then_some(caller))
        }
        (None, Credential::Token(_)) => Ok(None),
        (None, Credential::Certificate(shown)) => named_by(shown, rows),
    }
}

/// Return the one participant that a certificate names.
fn named_by<'s>(shown: &Certificate, rows: &'s Snapshot<'_>) -> Result<Option<&'s str>, Fault> {
    let mut found: Option<&str> = None;
    for name in shown.names.as_deref().unwrap_or_default() {
        let Some(row) = get(rows, &[b"x", name.as_bytes()].concat())? else { continue };
        let owner = text(row)?;
        if found.is_some_and(|other| other != owner) {
            return Ok(None);
        }
        found = Some(owner);
    }
    Ok(found)
}

/// Return whether a caller is an active participant that may ask questions.
fn may_ask(caller: &str, registry: &Registry) -> bool {
    let may = |one: &Participant| one.is_active && (one.roles & ASKING_ROLES | one.rights & ASKING_RIGHTS) != 0;
    registry.directory.participants.get(caller).is_some_and(may)
}

fn text(row: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(row).map_err(|_| Fault::Damaged)
}

/// Return the one field that a message has, which is field 1.
fn only_field(message: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields::new(message);
    let Ok(Some((1, Value::Bytes(found)))) = fields.read() else { return None };
    (fields.is_minimal() && matches!(fields.read(), Ok(None))).then_some(found)
}

/// Return the questions of a batch; None: it has another form, or too many.
fn read_batch(request: &[u8], max_items: usize) -> Option<Asked<'_>> {
    let mut fields = Fields::new(request);
    let (number, Value::Bytes(content)) = fields.read().ok()?? else { return None };
    if !fields.is_minimal() || fields.read() != Ok(None) {
        return None;
    }
    let mut inner = Fields::new(content);
    let (mut questions, mut subjects) = (Vec::new(), Vec::new());
    while let Some((field, Value::Bytes(item))) = inner.read().ok()? {
        match (number, field) {
            (1, 1) => questions.push(item),
            (2, 1) if questions.is_empty() && subjects.is_empty() => questions.push(item),
            (2, 2) if !questions.is_empty() => subjects.push(read_subject(item).ok()?),
            _ => return None,
        }
        if !inner.is_minimal() || questions.len().max(subjects.len()) > max_items {
            return None;
        }
    }
    match number {
        1 => Some(Asked::Each(questions)),
        _ => Some(Asked::Shared(questions.first()?, subjects)),
    }
}
