"""Authors: a statement is accepted only from a key that was valid then, of an author who may state its kind."""


import pytest

from cases.histories import BANK, CHAINS, CITIZEN, verify
from cases.ledgers import LedgerCase
from cases.writes import Raw
from consentd.core.key_validity import FOREVER_MS, KeyChange, KeyValidity, valid_keys
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import SignatureError


def author_fails(case: LedgerCase, tag: bytes, match: str) -> None:
    case.seal()
    proof = case.history(tag, *CHAINS)
    with pytest.raises(SignatureError, match=match):
        verify(proof, tag)


def test_an_unknown_author_key_is_rejected(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK))
    author_fails(own, person.tag, "in force")


def test_a_key_is_good_from_its_entry_to_its_retirement_and_no_longer(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.clock.advance(1000)
    own.write(own.key("bank", BANK.public_key))
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK))
    own.write(own.key("bank", BANK.public_key, retired=True))
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK))  # the same millisecond
    own.seal()
    assert len(verify(own.history(person.tag, *CHAINS), person.tag)[0]) == 3
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK))
    author_fails(own, person.tag, "in force")


def test_a_key_is_not_good_before_its_entry(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK))
    own.clock.advance(1)
    own.write(own.key("bank", BANK.public_key))
    author_fails(own, person.tag, "in force")


def test_a_kind_has_its_authors(own: LedgerCase) -> None:
    own.write(own.key("bank", BANK.public_key))
    person = own.enrol("somebody")
    own.write(Raw(kind=EntryKind.READ, tag=person.tag, author=BANK))
    author_fails(own, person.tag, "in force")


def test_a_person_signs_only_in_their_own_chain(own: LedgerCase) -> None:
    mine, other = own.enrol("somebody", CITIZEN), own.enrol("somebody else")
    own.write(Raw(kind=EntryKind.DISPUTE, tag=mine.tag, author=CITIZEN))
    own.seal()
    verify(own.history(mine.tag, *CHAINS), mine.tag)
    own.write(Raw(kind=EntryKind.DISPUTE, tag=other.tag, author=CITIZEN))
    own.seal()
    proof = own.history(other.tag, *CHAINS, mine.tag)
    with pytest.raises(SignatureError):
        verify(proof, other.tag)


@pytest.mark.parametrize("skew", [600_000, -600_000])
def test_clocks_ten_minutes_apart_and_no_more(own: LedgerCase, skew: int) -> None:
    person = own.enrol("somebody")
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author_skew_ms=skew))
    own.seal()
    verify(own.history(person.tag, *CHAINS), person.tag)
    own.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author_skew_ms=skew + skew // 600_000))
    author_fails(own, person.tag, "clock")


def test_a_kind_of_a_later_version_still_chains(own: LedgerCase) -> None:
    person = own.enrol("somebody")
    own.write(Raw(kind=200, tag=person.tag))
    own.seal()
    assert verify(own.history(person.tag, *CHAINS), person.tag)[0][-1].event.kind == 200


def test_validities_that_follow_from_changes() -> None:
    def fact(time_ms: int, *, retired: bool = False, name: str = "bank") -> KeyChange:
        return KeyChange(
            key=b"k" * 32, owner=Owner.PARTICIPANT, tag_or_name=name, time_ms=time_ms, retired=retired
        )

    def term(from_ms: int, until_ms: int = FOREVER_MS, name: str = "bank") -> KeyValidity:
        return KeyValidity(Owner.PARTICIPANT, from_ms, until_ms, name)

    assert valid_keys([]) == {}
    assert valid_keys([fact(5), fact(6)]) == {b"k" * 32: (term(5),)}
    assert valid_keys([fact(5), fact(9, retired=True)]) == {b"k" * 32: (term(5, 9),)}
    assert valid_keys([fact(5), fact(9, retired=True), fact(11)]) == {b"k" * 32: (term(5, 9), term(11))}
    # Another chain cannot retire it, nor end what has not begun.
    assert valid_keys([fact(5), fact(9, retired=True, name="x")]) == {b"k" * 32: (term(5),)}
    assert valid_keys([fact(9, retired=True)]) == {}
    assert valid_keys([fact(5), fact(7, name="x")]) == {b"k" * 32: (term(5), term(7, name="x"))}
