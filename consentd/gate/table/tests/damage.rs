//! Stored rows that are not what was written are damaged, and any rows with a right check are read or not: no panic.

use std::collections::BTreeMap;

use consentd_table::registry::Registry;
use consentd_table::rows::{check_of, open_row, Each, Fault, Revision, Source};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

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

fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/damage.seeds");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

fn stored(key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &check_of(key, value)].concat()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_row_that_was_changed_is_damaged(
        key in vec(any::<u8>(), 1..40),
        value in vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        more in vec(any::<u8>(), 1..8),
    ) {
        let whole = stored(&key, &value);
        prop_assert_eq!(open_row(&key, &whole), Ok(&value[..]));
        let mut changed = whole.clone();
        changed[at.index(whole.len())] ^= change;
        prop_assert_eq!(open_row(&key, &changed), Err(Fault::Damaged));
        let mut other = key.clone();
        other[at.index(key.len())] ^= change;
        prop_assert_eq!(open_row(&other, &whole), Err(Fault::Damaged));
        // Of longer changes the check misses one in four thousand million.
        prop_assert_eq!(open_row(&key, &whole[..at.index(whole.len())]), Err(Fault::Damaged));
        let longer = [&whole[..], &more[..]].concat();
        prop_assert_eq!(open_row(&key, &longer), Err(Fault::Damaged));
    }

    #[test]
    fn any_rows_of_a_registry_are_read_or_not(
        rows in vec((prop::sample::select(&b"pdwr"[..]), vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..80)), 0..6),
        revision in vec(any::<u8>(), 0..80),
    ) {
        let mut rules = vec![3, 1, 1, 3, 1, 0];
        rules.resize(20, 0);
        let mut found = BTreeMap::new();
        for (key, value) in [(&b"v"[..], &[0x10, 1][..]), (b"c", &rules), (b"R", &revision)] {
            found.insert(key.to_vec(), stored(key, value));
        }
        prop_assert!(Registry::read(&Rows(found.clone())).is_ok());
        for (kind, rest, value) in rows {
            let key = if kind == b'r' { vec![kind] } else { [&[kind], &rest[..]].concat() };
            let with_check = stored(&key, &value);
            found.insert(key, with_check);
        }
        let source = Rows(found);
        drop((Registry::read(&source), Revision::read(&source)));
    }
}
