"""Rotating the vault key: nothing is lost, wherever it is interrupted, and the old key-encryption key opens nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cases.erasures import uncompressed
from cases.fakes import FaultyStore, Random
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError, StorageError
from consentd.ledger import vault_rotation
from consentd.ledger.kek import SoftwareKek
from consentd.ledger.vault import Vault
from consentd.ledger.vault_rotation import compact, rewrap_all
from consentd.store import Batch, Store, rocks
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore

OLD, NEW, THIRD = (SoftwareKek(name, bytes((number,)) * 32) for number, name in enumerate(("old", "new", "third"), 1))
PEOPLE = 20
SALT = b"\x05" * 32


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_rotation, "BATCH_ROWS", 4)


def identifier_hash(number: int) -> bytes:
    return number.to_bytes(32)


class People:
    """A vault with persons, and what was encrypted for each of them."""

    def __init__(self, store: Store) -> None:
        self.vault = Vault(store, [OLD], Random())
        self.commitment = self.vault.commitment()
        self.stored: dict[int, tuple[bytes, bytes, bytes]] = {}
        for number in range(PEOPLE):
            self.add(self.vault, number)
        self.month = self.vault.unknown_chain("2026-03")

    def add(self, vault: Vault, number: int) -> None:
        tag = vault.create(identifier_hash(number))
        self.stored[number] = (tag, *vault.encrypt(EntryKind.GRANT, tag, SALT, b"statement %d" % number))

    def check(self, vault: Vault) -> None:
        """Check that every person is found, and every statement opens."""
        assert vault.commitment() == self.commitment
        assert vault.unknown_chain("2026-03") == self.month
        for number, (tag, commit, row) in self.stored.items():
            assert vault.find(identifier_hash(number)) == tag
            event = codec.Event(EntryKind.GRANT, 1, tag, 1, bytes(32), commit, 0)
            assert vault.decrypt(event, row) == (SALT, b"statement %d" % number)
            assert vault.opens(b"k" + tag)


def rotate(vault: Vault) -> Iterator[object]:
    """Take the steps of a rotation; yield after each, where it may be interrupted."""
    yield vault.begin_rotation()
    yield from rewrap_all(vault)
    yield vault.end_rotation()
    yield from compact(vault)
    yield vault.note_compacted()


def numbers(store: Store) -> set[int]:
    """Return the numbers of the vault keys that wrap something in *store*."""
    return {int.from_bytes(row[:4]) for kind in (b"K", b"k") for _, row in store.scan(kind, bytes((kind[0] + 1,)))}


def test_a_rotation_leaves_nothing_under_the_old_keys() -> None:
    store = MemoryStore()
    people = People(store)
    state = people.vault.state
    vault = Vault(store, [NEW, OLD])
    assert not vault.is_rotated
    done = [one for one in rotate(vault) if isinstance(one, int)]
    assert done[0] == 2
    assert PEOPLE + 1 in done
    assert vault.is_rotated
    assert numbers(store) == {2}
    assert vault.state == store.get(b"N") == state
    people.check(vault)
    people.check(Vault(store, [NEW]))
    with pytest.raises(StorageError, match=r"key-encryption key does not open this vault: `old`"):
        Vault(store, [OLD])


@pytest.mark.parametrize("keks", [[OLD], [NEW, OLD]], ids=["same KEK", "new KEK"])
def test_each_step_may_be_the_last_one(keks: list[SoftwareKek]) -> None:
    """The process dies after any step: the next one opens, serves, and its rotation finishes."""
    steps = len(list(rotate(Vault(_filled()[0], keks))))
    assert steps > 10
    for last in range(steps):
        store, people = _filled()
        for number, _ in enumerate(rotate(Vault(store, keks))):
            if number == last:
                break
        again = Vault(store, keks)
        people.check(again)
        people.add(again, 1_000 + last)
        assert again.is_rotated == (last == steps - 1)
        before = again.keys.current.number
        list(rotate(again))
        # A rotation that was interrupted is finished. Only the last step leaves none to finish.
        assert again.keys.current.number == (3 if last == steps - 1 else before)
        assert again.is_rotated
        people.check(Vault(store, keks[:1]))
        assert numbers(store) == {again.keys.current.number}


def _filled() -> tuple[Store, People]:
    store = MemoryStore()
    return store, People(store)


@pytest.mark.parametrize("persisted", [False, True])
def test_each_write_may_fail(persisted: bool) -> None:
    """Each write fails in both ways: the vault goes on to read, refuses writes, and the next process finishes."""
    writes = 0
    while True:
        inner, people = _filled()
        store = FaultyStore(inner)
        vault = Vault(store, [NEW, OLD])
        store.fail_write(persisted=persisted, after=writes)
        try:
            list(rotate(vault))
        except StorageError:
            people.check(vault)
        else:
            break
        again = Vault(inner, [NEW, OLD])
        people.check(again)
        list(rotate(again))
        people.check(Vault(inner, [NEW]))
        writes += 1
    assert writes > 8


def test_enrolments_and_erasures_go_on_meanwhile() -> None:
    store, people = _filled()
    vault = Vault(store, [NEW, OLD])
    gone = people.stored.pop(PEOPLE - 1)[0]
    for number, _ in enumerate(rotate(vault)):
        people.add(vault, 100 + number)
        if number == 1:
            batch = Batch()
            batch.delete(b"k" + gone)
            batch.delete(b"i" + identifier_hash(PEOPLE - 1))
            store.write(batch)
    people.check(vault)
    people.check(Vault(store, [NEW]))
    assert store.get(b"k" + gone) is None


def test_a_person_who_is_erased_between_the_scan_and_the_write_stays_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    store, people = _filled()
    vault = Vault(store, [NEW, OLD])
    tags = [tag for tag, _, _ in people.stored.values()]
    rewrap = Vault.rewrap

    def erase_first(self: Vault, names: list[bytes]) -> None:
        batch = Batch()
        for name in names:
            if name in {b"k" + tag for tag in tags[:5]}:
                batch.delete(name)
        store.write(batch)
        rewrap(self, names)

    monkeypatch.setattr(Vault, "rewrap", erase_first)
    list(rotate(vault))
    assert [store.get(b"k" + tag) for tag in tags[:5]] == [None] * 5
    assert all(store.get(b"k" + tag) for tag in tags[5:])


def test_a_reader_that_read_a_row_before_the_end_finds_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is of the old vault key, which is gone when the reader comes to unwrap it."""
    store, people = _filled()
    vault = Vault(store, [NEW, OLD])
    tag, commit, row = people.stored[3]
    get = store.get
    stale = get(b"k" + tag)
    list(rotate(vault))
    answers = iter([stale])
    monkeypatch.setattr(store, "get", lambda key: next(answers, None) or get(key))
    event = codec.Event(EntryKind.GRANT, 1, tag, 1, bytes(32), commit, 0)
    assert vault.decrypt(event, row)[1] == b"statement 3"


def test_an_interrupted_rotation_under_a_third_kek_makes_one_more_key() -> None:
    store, people = _filled()
    rotation = rotate(Vault(store, [NEW, OLD]))
    for _ in range(3):
        next(rotation)
    with pytest.raises(StorageError, match="vault key 1"):
        Vault(store, [NEW])
    again = Vault(store, [NEW, OLD])
    list(rotate(again))
    third = Vault(store, [THIRD, NEW])
    assert next(rotate(third)) == 3
    fourth = Vault(store, [NEW, THIRD])  # the operator goes back in the middle
    assert next(rotate(fourth)) == 4
    list(rotate(fourth))
    people.check(Vault(store, [NEW]))
    assert numbers(store) == {4}


def test_a_second_rotation_replaces_the_key_again() -> None:
    store, people = _filled()
    vault = Vault(store, [OLD])
    list(rotate(vault))
    list(rotate(vault))
    assert numbers(store) == {3}
    people.check(Vault(store, [OLD]))


def test_a_damaged_row_ends_a_rotation_and_loses_no_other() -> None:
    store, people = _filled()
    tag = people.stored.pop(7)[0]
    whole = store.get(b"k" + tag)
    assert whole is not None
    _put(store, b"k" + tag, whole[:-1] + bytes((whole[-1] ^ 1,)))
    vault = Vault(store, [NEW, OLD])
    with pytest.raises(StorageError, match="vault row is damaged"):
        list(rotate(vault))
    people.check(Vault(store, [NEW, OLD]))
    _put(store, b"k" + tag, whole)
    list(rotate(Vault(store, [NEW, OLD])))
    people.check(Vault(store, [NEW]))
    assert Vault(store, [NEW]).opens(b"k" + tag)


def test_a_row_of_another_place_does_not_open() -> None:
    store, people = _filled()
    (one, _, _), (other, _, _) = people.stored[0], people.stored[1]
    _put(store, b"k" + one, store.get(b"k" + other) or b"")
    vault = Vault(store, [OLD])
    assert not vault.opens(b"k" + one)
    with pytest.raises(StorageError):
        vault.encrypt(EntryKind.GRANT, one, SALT, b"")
    with pytest.raises(NotFoundError):
        vault.encrypt(EntryKind.GRANT, b"\xff" * 32, SALT, b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda store: _put(store, b"K", bytes(60)) or _drop(store, b"V"), "vault is of an earlier format"),
        (lambda store: _drop(store, b"V"), "vault row names no vault key"),
        (lambda store: _drop(store, b"K"), "vault has no index key"),
        (lambda store: _put(store, b"K", b"\0\0\0\x09" + bytes(60)), "vault row names no vault key"),
        (lambda store: _put(store, b"K", b"\0\0\0\x01" + bytes(60)), "vault row is damaged"),
        (lambda store: _put(store, b"V\0\0\0\x01", bytes(60)), "key-encryption key does not open this vault"),
        (lambda store: _put(store, b"V\0\0\0\x01", b""), "key-encryption key does not open this vault"),
    ],
)
def test_a_vault_that_lacks_its_keys_is_refused_and_not_begun_again(
    change: Callable[[Store], None], message: str
) -> None:
    store, _ = _filled()
    change(store)
    rows = list(store.scan(b"", None))
    with pytest.raises(StorageError, match=message):
        Vault(store, [OLD])
    assert list(store.scan(b"", None)) == rows


def test_no_old_key_is_left_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocks, "_open_arguments", uncompressed(rocks))
    store = RocksStore.open(tmp_path / "vault", block_cache_mb=8)
    people = People(store)
    old_rows = [row for kind in (b"V", b"K", b"k") for _, row in store.scan(kind, bytes((kind[0] + 1,)))]
    assert len(old_rows) == PEOPLE + 3
    vault = Vault(store, [NEW, OLD])
    held = store.scan(b"k", b"l")  # a reader, the scrub for example
    next(held)
    found = [len(_left(tmp_path, old_rows))]
    list(rotate(vault))
    found.append(len(_left(tmp_path, old_rows)))
    assert found == [len(old_rows), 0]
    new_rows = [row for kind in (b"V", b"K", b"k") for _, row in store.scan(kind, bytes((kind[0] + 1,)))]
    assert len(_left(tmp_path, new_rows)) == len(new_rows)  # the search finds what is there
    people.check(vault)
    del held
    store.close()


def _left(directory: Path, rows: list[bytes]) -> list[bytes]:
    """Return which of *rows* are in any file, by any 12 bytes of their ciphertext. The store must not compress."""
    files = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return [row for row in rows if any(row[at : at + 12] in files for at in range(16, len(row) - 12))]


def _put(store: Store, key: bytes, row: bytes) -> None:
    batch = Batch()
    batch.put(key, row)
    store.write(batch)


def _drop(store: Store, kind: bytes) -> None:
    batch = Batch()
    batch.delete_range(kind, bytes((kind[0] + 1,)))
    store.write(batch)
