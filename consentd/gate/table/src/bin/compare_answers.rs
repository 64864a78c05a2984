//! Compare the answers of this crate with those of the daemon: `compare_answers FILE [SEED]`.
//!
//! `tests/cases/gate_cases.py` describes the file. The program prints how many answers are the same, and the first ones
//! that are not, and ends with status 1 if there are any. With a seed, it damages rows and questions instead: no bytes
//! may stop the program, and none permit anything that have no right check.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use consentd_core::answer::hex;
use consentd_core::layers::Outcome;
use consentd_table::check::{Answerer, IndexKey, NotAnswered};
use consentd_table::registry::Registry;
use consentd_table::rows::{check_of, Each, Fault, Revision, Source};

const HEADER: &[u8] = b"consentd gate cases 1\n";
const MOST_SHOWN: usize = 5;
const DECISION_ID: &str = "00000000000000000000000000000000";

#[derive(Default)]
struct Rows(BTreeMap<Vec<u8>, Vec<u8>>);

impl Source for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        Ok(self.0.get(key).map(Vec::as_slice))
    }

    fn scan(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), Fault> {
        let from = self.0.range(prefix.to_vec()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).try_for_each(|(key, stored)| each(key, stored))
    }
}

/// A question, and what the daemon makes of it: the bytes of a `Decision`, or the reason why it is refused.
struct Case<'a> {
    emergency: bool,
    now_ms: u64,
    caller: Option<&'a str>,
    question: &'a [u8],
    expected: Result<&'a [u8], &'a str>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self, length: usize) -> usize {
        self.take(length).iter().fold(0, |found, byte| found << 8 | usize::from(*byte))
    }

    fn case(mut self) -> Case<'a> {
        let emergency = self.number(1) == 1;
        let now_ms = self.number(8) as u64;
        let length = self.number(2);
        let caller = std::str::from_utf8(self.take(length)).expect("UTF-8");
        let length = self.number(4);
        let question = self.take(length);
        let is_answered = self.number(1) == 1;
        let expected = if is_answered { Ok(self.0) } else { Err(std::str::from_utf8(self.0).expect("UTF-8")) };
        Case { emergency, now_ms, caller: Some(caller).filter(|name| !name.is_empty()), question, expected }
    }
}

/// Answer a case; return whether the answer is the daemon's, and else what it is.
fn run(
    rows: &Rows,
    registry: &Registry,
    revision: Revision,
    index_key: &IndexKey,
    case: &Case<'_>,
) -> Result<(), String> {
    let answerer = Answerer { source: rows, revision, registry, index_key, caller: case.caller, now_ms: case.now_ms };
    let checked = answerer.check(case.question, case.emergency);
    let checked = checked.and_then(|(question, subject)| Ok((question, answerer.identifier_hash(subject)?)));
    match (checked, case.expected) {
        (Err(NotAnswered::Refused(reason)), Err(expected)) if reason == expected => Ok(()),
        // A message of another form is passed on. Of these cases, only those that are refused have one.
        (Err(NotAnswered::OtherForm), Err(_)) => Ok(()),
        (Ok((question, identifier_hash)), Ok(expected)) => {
            let mut out = Vec::new();
            match answerer.answer(&mut out, &question, &identifier_hash, DECISION_ID) {
                Ok(_) if out == expected => Ok(()),
                Ok(_) => Err(format!("answer {}, not {}", hex(&out), hex(expected))),
                Err(fault) => Err(format!("fault: {fault}")),
            }
        }
        (Err(other), expected) => Err(format!("{other:?}, not {}", expected.map_or_else(str::to_owned, hex))),
        (Ok(_), Err(expected)) => Err(format!("an answer, not {expected}")),
    }
}

/// Changes bytes by a sequence that follows from a seed (SplitMix64).
struct Damage(u64);

impl Damage {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.0;
        drawn = (drawn ^ drawn >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((drawn ^ drawn >> 31) % most.max(1) as u64) as usize
    }

    fn damaged(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut found = bytes.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(found.len());
            match self.below(4) {
                0 if at < found.len() => found[at] ^= 1 << self.below(8),
                1 if at < found.len() => found[at] = [0, 1, 2, 0x7F, 0x80, 0xFF][self.below(6)],
                2 => found.truncate(at),
                _ => found.insert(at, self.below(256) as u8),
            }
        }
        found
    }
}

/// Answer a case after damage to a row or to the question.
fn run_damaged(rows: &Rows, index_key: &IndexKey, case: &Case<'_>, damage: &mut Damage) -> Result<(), String> {
    let at = damage.below(rows.0.len() + 4);
    let subject = rows.0.keys().position(|key| key[0] == b's');
    // A person's own row is damaged in a third of the cases, half of these without a right check.
    let at = if damage.below(3) == 0 { subject.unwrap_or(at) } else { at };
    let mut rows = Rows(rows.0.clone());
    let mut question = case.question.to_vec();
    let mut is_spoiled = false;
    match rows.0.iter_mut().nth(at) {
        None => question = damage.damaged(&question),
        Some((key, stored)) if key[0] == b's' && damage.below(2) == 0 => {
            let before = stored.clone();
            *stored = damage.damaged(stored);
            is_spoiled = *stored != before;
        }
        Some((key, stored)) => {
            let mut value = damage.damaged(&stored[..stored.len() - 4]);
            value.extend_from_slice(&check_of(key, &value));
            *stored = value;
        }
    }
    let (Ok(registry), Ok(revision)) = (Registry::read(&rows), Revision::read(&rows)) else { return Ok(()) };
    let (registry, caller, now_ms) = (&registry, case.caller, case.now_ms);
    let answerer = Answerer { source: &rows, revision, registry, index_key, caller, now_ms };
    let Ok((question, subject)) = answerer.check(&question, case.emergency) else { return Ok(()) };
    let Ok(identifier_hash) = answerer.identifier_hash(subject) else { return Ok(()) };
    let mut out = Vec::new();
    match answerer.answer(&mut out, &question, &identifier_hash, DECISION_ID) {
        Ok((outcome, _)) if is_spoiled && outcome != Outcome::Indeterminate => {
            Err(format!("{outcome:?} from a damaged row"))
        }
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let mut damage = std::env::args().nth(2).map(|seed| Damage(seed.parse().expect("a seed is a number")));
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: compare_answers FILE");
        return ExitCode::from(2);
    };
    let file = match std::fs::read(&path) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("file cannot be read: {error}");
            return ExitCode::from(2);
        }
    };
    let Some(items) = file.strip_prefix(HEADER) else {
        eprintln!("file has no cases of this version");
        return ExitCode::from(2);
    };
    let mut reader = Reader(items);
    let mut index_key = None;
    let mut rows = Rows::default();
    let mut registry: Option<(Registry, Revision)> = None;
    let (mut same, mut differ, mut nanoseconds) = (0u64, 0usize, 0u128);
    while !reader.0.is_empty() {
        let kind = reader.number(1) as u8;
        let length = reader.number(4);
        let body = reader.take(length);
        match kind {
            b'K' => index_key = IndexKey::new(body),
            b'W' => (rows, registry) = (Rows::default(), None),
            b'R' => {
                let (key, stored) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
                rows.0.insert(key.to_vec(), stored.to_vec());
            }
            _ => {
                let case = Reader(body).case();
                let index_key = index_key.as_ref().expect("a key comes first");
                let begun = Instant::now();
                let found = if let Some(damage) = &mut damage {
                    run_damaged(&rows, index_key, &case, damage)
                } else {
                    let (registry, revision) = registry.get_or_insert_with(|| {
                        (Registry::read(&rows).expect("registry"), Revision::read(&rows).expect("revision"))
                    });
                    run(&rows, registry, *revision, index_key, &case)
                };
                nanoseconds += begun.elapsed().as_nanos();
                match found {
                    Ok(()) => same += 1,
                    Err(what) => {
                        differ += 1;
                        if differ <= MOST_SHOWN {
                            println!("case {}: {what}", same + differ as u64);
                        }
                    }
                }
            }
        }
    }
    let each = nanoseconds / u128::from(same.max(1));
    let what = if damage.is_some() { "answers permit nothing from damaged rows" } else { "answers are the same" };
    println!("{same} {what}, {differ} differ; {each} ns each");
    if differ == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
