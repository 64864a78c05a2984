"""The vocabulary: bits, closures, succession; the default one against HL7's own code lists."""

from dataclasses import replace
from pathlib import Path

import pytest

from consentd.errors import InvalidError
from consentd.policy.check import ITEMS_NOT_SPECIFIED
from consentd.policy.default_vocabulary import (
    ACTIONS,
    CATEGORIES,
    DEFAULT_VOCABULARY,
    LABELS,
    LEGAL_BASES,
    PURPOSES,
    REFUSAL_GROUNDS,
)
from consentd.policy.model import LEVELS
from consentd.policy.vocabulary import Code, Sensitivity, Vocabulary, check_successor, unknown_level

V3 = Path(__file__).parents[1] / "../shared/data/v3"
needs_v3 = pytest.mark.skipif(not V3.is_dir(), reason="HL7 v3 code lists are not in the directory next to the project")


def code(name: str, parent: str = "", *, implies: bool = True) -> Code:
    return Code(code=name, name={"en": name}, parent=parent, implies=implies)


def leaf(name: str, parent: str = "", *, implies: bool = True, level: str = "N", labels: tuple[str, ...] = ()) -> Code:
    return replace(code(name, parent, implies=implies), level=level, labels=labels)


def vocabulary(**lists: tuple[Code, ...]) -> Vocabulary:
    some = {"purposes": (code("P"),), "categories": (leaf("C"),)}
    some |= {"actions": (code("access"),), "labels": (code("SUD"),)}
    some |= {"refusal_grounds": (code("R1", implies=False),), "legal_bases": (code("LAW", implies=False),)}
    some["evidence"] = (code("paper", implies=False),)
    return Vocabulary(id="test", version=1, **(some | lists))


def read(name: str) -> dict[str, str]:
    """Code → parent, as HL7 lists them; if a code has several parents, the last."""
    rows = (V3 / name).read_text(encoding="utf-8").splitlines()[1:]
    return {fields[0]: fields[2] for fields in (row.split("\t") for row in rows)}


def ancestors(parents: dict[str, str], name: str) -> list[str]:
    found = []
    while parents.get(name):
        name = parents[name]
        found.append(name)
    return found


@needs_v3
def test_purposes_are_hl7s_and_stand_where_hl7_puts_them() -> None:
    parents = read("act_reason.tsv")
    ours = {entry.code for entry in PURPOSES}
    for entry in PURPOSES:
        if entry.system:
            above = [name for name in ancestors(parents, entry.code) if name in ours]
            assert entry.code in parents
            assert "PurposeOfUse" in ancestors(parents, entry.code)
            assert entry.parent == (above[0] if above else "")
    assert [entry.code for entry in PURPOSES if not entry.system] == ["AITRAIN"]


@needs_v3
def test_labels_are_hl7s() -> None:
    parents = read("act_code_sensitivity.tsv")
    ours = {entry.code for entry in LABELS}
    for entry in LABELS:
        above = [other for other in ancestors(parents, entry.code) if other in ours]
        assert entry.system.endswith("v3-ActCode")
        assert entry.code in parents
        assert entry.parent == (above[0] if above else "")


@needs_v3
def test_levels_are_hl7s_and_no_labels() -> None:
    assert set(LEVELS) <= set(read("confidentiality.tsv"))
    assert not set(LEVELS) & {entry.code for entry in LABELS}


def test_default_vocabulary_is_what_the_platform_shares() -> None:
    twelve = ["환자정보", "의료기관정보", "진료의정보", "진단내역", "약물처방내역", "진단검사", "영상검사", "병리검사"]
    twelve += ["기타검사", "수술내역", "알러지 및 부작용", "진료기록"]
    assert [entry.name["ko"] for entry in CATEGORIES if entry.parent == "CLIN"][:12] == twelve
    assert [entry.code for entry in CATEGORIES if not entry.parent] == ["CLIN", "INS", "PUB", "LIFE", "GEN"]
    assert (len(CATEGORIES), DEFAULT_VOCABULARY.leaves.bit_count()) == (36, 31)
    assert [entry.code for entry in ACTIONS] == ["collect", "access", "use", "disclose", "correct"]
    assert all(entry.name.keys() == {"ko", "en"} for entry in (*PURPOSES, *CATEGORIES, *ACTIONS, *LABELS))
    assert {label for entry in CATEGORIES if entry.code.startswith("GEN.") for label in entry.labels} == {"GDIS"}


def test_what_is_never_implied() -> None:
    never = {"BTG", "CLINTRL", "CLINTRCH", "POPHLTH", "HMARKT", "POARCH", "HLEGAL", "AITRAIN"}
    never |= {"CLINTRCHPC", "CLINTRCHNPC"}
    assert never <= {entry.code for entry in PURPOSES if not entry.implies}
    purpose, action = DEFAULT_VOCABULARY.purpose, DEFAULT_VOCABULARY.action
    mask = sum(purpose.bits[name] for name in never)
    for name, covered in purpose.permit.items():
        assert covered & mask == purpose.bits[name] & mask
    assert not purpose.star & mask
    assert action.all & ~action.star == action.bits["correct"]


@pytest.mark.parametrize(
    "lists",
    [
        {"purposes": (code("BTG"),)},
        {"purposes": (code("P"), code("HMARKT", "P"))},
        {"purposes": (code("CLINTRCH", implies=False), code("CLINTRCHPC", "CLINTRCH"))},
        {"purposes": (code("AITRAIN", implies=False), code("A", "AITRAIN", implies=False), code("B", "A"))},
        {"actions": (code("access"), code("correct"))},
    ],
)
def test_a_vocabulary_that_marks_them_as_implied_is_refused(lists: dict[str, tuple[Code, ...]]) -> None:
    with pytest.raises(InvalidError, match="implied"):
        vocabulary(**lists)


def test_closures_go_opposite_ways() -> None:
    small = vocabulary(purposes=(code("A"), code("B", "A", implies=False), code("C", "B"), code("D", "A")))
    assert small.purpose.permit == {"A": 0b1001, "B": 0b0110, "C": 0b0100, "D": 0b1000}
    assert small.purpose.below == {"A": 0b1111, "B": 0b0110, "C": 0b0100, "D": 0b1000}
    assert small.purpose.above == {"A": 0b0001, "B": 0b0011, "C": 0b0111, "D": 0b1001}
    assert small.purpose.star == 0b1001


def test_permits_cover_leaves_alone() -> None:
    two = leaf("X.2", "X", implies=False)
    small = vocabulary(categories=(code("X"), leaf("X.1", "X"), leaf("Y", implies=False), two))
    assert small.category.codes == ("X", "X.1", "Y", "X.2")
    assert small.category.bits == {"X": 1, "X.1": 2, "Y": 4, "X.2": 8}
    assert small.category.permit == {"X": 0b0010, "X.1": 0b0010, "Y": 0b0100, "X.2": 0b1000}
    assert (small.leaves, small.category.star, small.category.below["X"]) == (0b1110, 0b0010, 0b1011)


def test_leaves_by_their_sensitivity() -> None:
    small = vocabulary(
        categories=(code("X"), leaf("X.1", "X"), leaf("X.2", "X", level="V", labels=("ETHUD",)), leaf("Y")),
        labels=(code("SUD"), code("ETHUD", "SUD")),
    )
    assert set(small.sensitivities) == {Sensitivity(0, 0, 4, 0b1010), Sensitivity(0b10, 0b11, 6, 0b0100)}


@pytest.mark.parametrize(
    "lists",
    [
        {"purposes": tuple(code(f"P{index}") for index in range(65))},
        {"categories": tuple(leaf(f"C{index}") for index in range(65))},
        {"categories": (code("C"), *(leaf(f"C{index}", "C") for index in range(64)))},
        {"actions": tuple(code(f"A{index}") for index in range(17))},
        {"labels": tuple(code(f"L{index}") for index in range(33))},
        {"purposes": (code("P"), code("P"))},
        *({"purposes": (code(name),)} for name in ("P ", "\u0420", "P+Q", "P\nQ", "\u200b", "P" * 65)),
        {"purposes": (code("Q", "P"), code("P"))},
        {"purposes": (code("*"),)},
        {"purposes": (code(""),)},
        {"categories": (leaf("C", level="X"),)},
        {"categories": (leaf("C", level=""),)},
        {"categories": (leaf("C", labels=("NONE",)),)},
        {"categories": (leaf("C"), leaf("D", "C"))},
        {"labels": (code("R"),)},
        {"labels": (leaf("SUD"),)},
        {"purposes": (leaf("P"),)},
        {"actions": (replace(code("A"), labels=("SUD",)),)},
        {"categories": (replace(code("C"), labels=("SUD",)), leaf("D", "C"))},
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(lists: dict[str, tuple[Code, ...]]) -> None:
    with pytest.raises(InvalidError):
        vocabulary(**lists)


def test_limits_are_reachable() -> None:
    full = vocabulary(
        purposes=tuple(code(f"P{index}") for index in range(64)),
        categories=(code("C"), *(leaf(f"C{index}", "C") for index in range(63))),
        actions=tuple(code(f"A{index}") for index in range(16)),
        labels=tuple(code(f"L{index}") for index in range(32)),
    )
    assert full.purpose.all == full.category.all == (1 << 64) - 1


def test_versions_are_numbered_from_one() -> None:
    for version in (0, 65_536):
        with pytest.raises(InvalidError):
            replace(vocabulary(), version=version)


def grown(**lists: tuple[Code, ...]) -> Vocabulary:
    return replace(vocabulary(**lists), version=2)


def test_a_successor_may_add_and_rename() -> None:
    old = vocabulary()
    more = (replace(leaf("C"), name={"ko": "새 이름"}), leaf("D"), code("E"), leaf("E.1", "E"))
    check_successor(old, grown(purposes=(code("P"), code("Q"), code("R", "Q")), categories=more))
    assert grown(categories=more).category.bits["C"] == old.category.bits["C"]
    parent = vocabulary(labels=(code("SUD"), code("ETHUD", "SUD")))
    check_successor(parent, grown(labels=(code("SUD"), code("ETHUD", "SUD"), code("MH", "SUD"))))


@pytest.mark.parametrize(
    "new",
    [
        replace(vocabulary(), version=1),
        replace(vocabulary(), version=3),
        replace(vocabulary(), version=2, id="other"),
        grown(purposes=(code("Q"), code("P"))),
        grown(labels=()),
        grown(categories=(code("C"), leaf("C.1", "C"))),
        grown(purposes=(code("P"), code("Q", "P"))),
        grown(actions=(code("access"), code("look", "access"))),
        grown(labels=(code("SUD"), code("ETHUD", "SUD"))),
        grown(purposes=(code("P", implies=False),)),
        grown(categories=(leaf("C", level="R"),)),
        grown(categories=(leaf("C", labels=("SUD",)),)),
        grown(refusal_grounds=()),
        grown(refusal_grounds=(code("R2", implies=False), code("R1", implies=False))),
        grown(legal_bases=(code("LAW", implies=False), code("ART", "LAW", implies=False))),
    ],
)
def test_a_successor_changes_no_code(new: Vocabulary) -> None:
    with pytest.raises(InvalidError):
        check_successor(vocabulary(), new)


def test_the_default_has_the_grounds_of_the_decree_and_legal_bases() -> None:
    assert [entry.code for entry in REFUSAL_GROUNDS] == [f"R{number:02}" for number in range(1, 12)]
    assert {"COURT", "STATUTE", "MA-21-3"} <= {entry.code for entry in LEGAL_BASES}
    for entry in (*REFUSAL_GROUNDS, *LEGAL_BASES):
        assert entry.name.keys() == {"ko", "en"}
    assert ITEMS_NOT_SPECIFIED in {entry.code for entry in REFUSAL_GROUNDS}


def test_codes_without_bits_change_no_mask() -> None:
    more = {"refusal_grounds": (code("R1", implies=False),), "legal_bases": (code("LAW", implies=False),)}
    for name in ("purpose", "category", "action", "label", "sensitivities"):
        assert getattr(vocabulary(**more), name) == getattr(vocabulary(refusal_grounds=(), legal_bases=()), name)


@pytest.mark.parametrize("kind", ["refusal_grounds", "legal_bases", "evidence"])
@pytest.mark.parametrize(
    "codes",
    [
        (code("X"),),
        (code("X Y", implies=False),),
        (code("X", implies=False), code("X", implies=False)),
        (code("X", "Y", implies=False),),
        (leaf("X", implies=False),),
        tuple(code(f"X{number}", implies=False) for number in range(65)),
    ],
)
def test_a_list_without_bits_has_a_form_too(kind: str, codes: tuple[Code, ...]) -> None:
    with pytest.raises(InvalidError):
        vocabulary(**{kind: codes})


def test_a_successor_may_not_move_a_code_to_another_parent() -> None:
    old = vocabulary(purposes=(code("A"), code("B"), code("C", "A")))
    with pytest.raises(InvalidError, match="`C`"):
        check_successor(old, grown(purposes=(code("A"), code("B"), code("C", "B"))))


def test_the_levels_are_listed_in_one_place() -> None:
    """Messages name the levels of the model, so they stay right if the model changes."""
    sources = Path(__file__).parents[1] / "consentd"
    assert [one.name for one in sources.rglob("*.py") if '"U", "L"' in one.read_text()] == ["model.py"]
    assert [one.name for one in sources.rglob("*.py") if "U, L, M" in one.read_text()] == []
    assert "U, L, M, N, R, V" in str(unknown_level("X"))
