//! Any bytes give a value or an error: never a panic, and never a permit.
//!
//! `PROPTEST_CASES` says how many cases each property has. A case that fails is added to `tests/garbage.seeds`, and is
//! tried first from then on.

use consentd_core::codebook::{check_names, pack, Packed};
use consentd_core::evaluate::evaluate;
use consentd_core::parties::{determine, Directory, Participant};
use consentd_core::question::{read_question, read_subject, Question};
use consentd_core::rows::{Block, Row, ROW_SIZE};
use consentd_core::rules::Rules;
use consentd_core::subject::SubjectValue;
use consentd_core::vocabulary::Vocabulary;
use consentd_core::wire::{put_bytes, put_item, put_number};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Field numbers of a question that are not repeated and have text, of which it has each once.
const TEXTS: [u32; 3] = [3, 4, 5];
const NOW_MS: u64 = 1_000;

fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/garbage.seeds");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

fn code(kind: u64, name: &str, level: &str, label: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, kind);
    put_bytes(&mut out, 2, name.as_bytes());
    put_bytes(&mut out, 7, level.as_bytes());
    put_bytes(&mut out, 8, label.as_bytes());
    out
}

fn vocabulary_message() -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 2, 1);
    for (kind, name, level, label) in [
        (4, "L", "", ""),
        (1, "TREAT", "", ""),
        (2, "A", "N", ""),
        (2, "B", "R", "L"),
        (3, "collect", "", ""),
        (3, "disclose", "", ""),
    ] {
        put_item(&mut out, 3, &code(kind, name, level, label));
    }
    out
}

fn rules_value(combining: u8) -> Vec<u8> {
    let mut out = vec![3, combining, 1, 3, 1, 0];
    out.resize(20, 0);
    out
}

fn directory() -> Directory {
    let mut found = Directory::default();
    for (number, name) in [(1, "hospital"), (2, "clinic")] {
        let one = Participant { number, is_active: true, roles: 0b110, rights: 0b100, ..Participant::default() };
        found.participants.insert(name.to_owned(), one);
    }
    found
}

/// Return the message of a question that `permit_row` permits. *is_open*: whether the caller can check conditions.
fn question_message(is_open: bool) -> Vec<u8> {
    let mut actor = Vec::new();
    put_bytes(&mut actor, 1, b"clinic");
    let mut out = Vec::new();
    put_item(&mut out, 2, &actor);
    for (field, text) in TEXTS.iter().zip(["hospital", "TREAT", "disclose"]) {
        put_bytes(&mut out, *field, text.as_bytes());
    }
    for category in ["A", "B"] {
        put_item(&mut out, 6, category.as_bytes());
    }
    if is_open {
        put_item(&mut out, 12, &[1]);
    }
    out
}

fn packed<'q>(question: &Question<'q>, vocabulary: &Vocabulary) -> Option<Packed<'q>> {
    check_names(question, vocabulary).ok()?;
    let parties = determine(&directory(), Some("clinic"), question, NOW_MS).ok()?;
    pack(question, vocabulary, parties).ok()
}

/// Return what a value permits of the usual question; None: it cannot be read.
fn permitted(value: &[u8], combining: u8, is_open: bool) -> Option<u64> {
    let vocabulary = Vocabulary::decode(&vocabulary_message()).expect("a vocabulary");
    let rules = Rules::decode(&rules_value(combining), vocabulary.version).expect("rules");
    let message = question_message(is_open);
    let question = read_question(&message).expect("a question");
    let packed = packed(&question, &vocabulary).expect("a question that may be asked");
    evaluate(Some(value), &packed, &rules, NOW_MS).ok().map(|verdict| verdict.masks.permitted)
}

/// Return a row that permits whatever is asked.
fn permit_row() -> [u8; ROW_SIZE] {
    let mut row = [0; ROW_SIZE];
    row[8..24].fill(0xFF);
    row[32..40].copy_from_slice(&(i64::MAX as u64).to_le_bytes());
    row[44..46].fill(0xFF);
    row[48] = 1;
    row
}

/// One consent of a subject value: the rows of its tree, the flags of its entry, and its side block.
#[derive(Clone, Debug)]
struct Consent {
    rows: Vec<[u8; ROW_SIZE]>,
    flags: u8,
    block: Option<Vec<u8>>,
}

fn encode(consents: &[Consent]) -> Vec<u8> {
    let rows: usize = consents.iter().map(|one| one.rows.len()).sum();
    let mut out = vec![4, 0, 0, 0];
    out.extend_from_slice(&(consents.len() as u16).to_le_bytes());
    out.extend_from_slice(&(rows as u16).to_le_bytes());
    for (number, one) in (1u32..).zip(consents) {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        let has_side = if one.block.is_some() { 8 } else { 0 };
        out.extend_from_slice(&[1, 0, 1, 0, one.rows.len() as u8 - 1, one.flags & 7 | has_side]);
        out.extend_from_slice(&[0; 16]);
    }
    for row in consents.iter().flat_map(|one| &one.rows) {
        out.extend_from_slice(row);
    }
    for block in consents.iter().filter_map(|one| one.block.as_ref()) {
        out.extend_from_slice(&(block.len() as u32).to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

/// A row that permits everything, changed in a few places, so that many rows match.
fn row() -> impl Strategy<Value = [u8; ROW_SIZE]> {
    vec((0..ROW_SIZE, any::<u8>()), 0..4).prop_map(|changes| {
        let mut row = permit_row();
        changes.into_iter().for_each(|(at, byte)| row[at] = byte);
        row
    })
}

/// Small numbers, as the offsets and counts of a side block are.
fn block() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![3 => 0u32..16, 1 => any::<u32>()], 0..64)
        .prop_map(|words| words.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn consent() -> impl Strategy<Value = Consent> {
    let flags = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
    (vec(row(), 1..5), flags, proptest::option::of(block())).prop_map(|(rows, flags, block)| Consent {
        rows,
        flags,
        block,
    })
}

/// Change bytes, cut the end off, or insert bytes.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    (bytes, vec(change, 1..4)).prop_map(|(mut bytes, changes)| {
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 if at < bytes.len() => bytes[at] ^= 1 << (byte & 7),
                1 if at < bytes.len() => bytes[at] = byte,
                2 => bytes.truncate(at),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

#[test]
fn the_usual_question_is_permitted() {
    let consent = Consent { rows: vec![permit_row()], flags: 0, block: None };
    assert_eq!(permitted(&encode(&[consent]), 1, false), Some(0b11));
    assert_eq!(permitted(&[], 1, true), Some(0));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_a_question_or_none(bytes in vec(any::<u8>(), 0..256)) {
        let vocabulary = Vocabulary::decode(&vocabulary_message()).expect("a vocabulary");
        if let Ok(question) = read_question(&bytes) {
            drop(packed(&question, &vocabulary));
        }
        let _ = read_subject(&bytes);
    }

    #[test]
    fn a_damaged_question_is_read_or_not(bytes in damaged(any::<bool>().prop_map(question_message))) {
        let vocabulary = Vocabulary::decode(&vocabulary_message()).expect("a vocabulary");
        let rules = Rules::decode(&rules_value(1), vocabulary.version).expect("rules");
        if let Ok(question) = read_question(&bytes) {
            if let Some(packed) = packed(&question, &vocabulary) {
                // Nobody permits anything, so no damage may make a permit.
                let verdict = evaluate(Some(&[]), &packed, &rules, NOW_MS).expect("an empty value");
                prop_assert_eq!(verdict.masks.permitted, 0);
            }
        }
    }

    #[test]
    fn a_question_with_a_field_more_is_not_read(
        field in prop_oneof![Just(11u32), 14u32..1 << 20],
        again in prop::sample::select(&TEXTS[..]),
        value in vec(any::<u8>(), 0..8),
        is_open in any::<bool>(),
    ) {
        let whole = question_message(is_open);
        prop_assert!(read_question(&whole).is_ok());
        for number in [field, again] {
            let mut message = whole.clone();
            put_item(&mut message, number, &value);
            prop_assert!(read_question(&message).is_err());
        }
    }

    #[test]
    fn any_bytes_permit_nothing(bytes in vec(any::<u8>(), 1..512), combining in 1u8..6) {
        prop_assert!(matches!(permitted(&bytes, combining, false), None | Some(0)));
    }

    #[test]
    fn a_value_that_is_cut_short_or_too_long_is_not_read(
        consents in vec(consent(), 1..4),
        at in any::<prop::sample::Index>(),
        more in vec(any::<u8>(), 1..64),
        combining in 1u8..6,
    ) {
        let value = encode(&consents);
        let cut = &value[..at.index(value.len())];
        prop_assert!(matches!(permitted(cut, combining, false), None | Some(0)));
        prop_assert_eq!(permitted(cut, combining, true).is_some(), cut.is_empty());
        let longer = [&value[..], &more[..]].concat();
        prop_assert_eq!(permitted(&longer, combining, true), None);
    }

    #[test]
    fn a_damaged_value_is_read_or_not(
        value in damaged(vec(consent(), 0..4).prop_map(|consents| encode(&consents))),
        combining in 1u8..6,
        is_open in any::<bool>(),
    ) {
        permitted(&value, combining, is_open);
        if let Ok(subject) = SubjectValue::decode(&value) {
            prop_assert!(subject.lineages().count() <= usize::from(u16::MAX) + 1);
        }
    }

    #[test]
    fn any_side_block_is_read_or_not(bytes in prop_oneof![block(), vec(any::<u8>(), 0..256)], word in any::<u16>()) {
        let block = Block(&bytes);
        for word in [word, word % 64] {
            let _ = (block.record(word), block.count(word), block.references(word), block.used(word, 1, NOW_MS));
            let _ = (block.numbers(word).map(Iterator::count), block.ends(word).map(Iterator::count));
        }
    }

    #[test]
    fn any_row_is_read(row in any::<[u8; ROW_SIZE]>()) {
        prop_assert_eq!(Row::decode(&row).permits(), row[48] & 1 == 1);
    }

    #[test]
    fn any_rules_and_vocabulary_are_read_or_not(
        bytes in vec(any::<u8>(), 0..256),
        vocabulary in damaged(Just(vocabulary_message())),
        rules in damaged((1u8..7).prop_map(rules_value)),
        value in vec(consent(), 0..3).prop_map(|consents| encode(&consents)),
    ) {
        drop((Vocabulary::decode(&bytes), Rules::decode(&bytes, 1)));
        let (Ok(vocabulary), Ok(rules)) = (Vocabulary::decode(&vocabulary), Rules::decode(&rules, u16::MAX)) else {
            return Ok(());
        };
        let message = question_message(true);
        let question = read_question(&message).expect("a question");
        if let Some(packed) = packed(&question, &vocabulary) {
            drop(evaluate(Some(&value), &packed, &rules, NOW_MS));
        }
    }
}
