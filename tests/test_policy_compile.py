"""What is written: consents compiled to the bytes that proto/table-format.md specifies, joined and edited."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.policy_builders import consent, deny, opposite, permit
from cases.policy_worlds import EARLIER, NUMBERS, VOCABULARY, Draw, World
from consentd.errors import InvalidError, MalformedError, NotFoundError, PreconditionError
from consentd.policy.compile import POLICY_ROWS, UNREADABLE, Compiled, compile_consent, compile_rules, decode_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import (
    ANY,
    LEVELS,
    OPEN_END_MS,
    OPEN_START_MS,
    Combining,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Period,
    Provision,
    Rules,
    StoredConsent,
)
from consentd.policy.rows import (
    GROUP,
    NORMAL,
    PERMIT,
    ROW_SIZE,
    SIDE,
    Row,
    Side,
    SideBlock,
    decode_side,
    decode_sides,
    unpack_rows,
)
from consentd.policy.subject import (
    ENTRY,
    HEADER,
    SIMPLE,
    decode_subject,
    encode_subject,
    only_denies,
    with_consent,
    with_state,
    without_consent,
)
from consentd.policy.vocabulary import HIGHEST_LEVEL, LEVEL_NUMBERS

FORMAT = Path(__file__).parents[1] / "proto" / "table-format.md"


def compiled(stored: StoredConsent) -> Compiled:
    return compile_consent(stored, VOCABULARY, NUMBERS, normal_level=HIGHEST_LEVEL)


def rows(stored: StoredConsent) -> list[Row]:
    return unpack_rows(compiled(stored).rows)


# -- rows


def test_a_row_is_52_bytes_as_specified() -> None:
    stored = consent(
        permit(actors=("b",), holders=("r",), purposes=("TREAT",), categories=("CLIN",), actions=("disclose",),
               labels=("SUD",), level="R", start_ms=10, end_ms=20)
    )
    expected = (
        "02000000" "04000000"  # actor, holder
        "8700000000000000"  # purposes: TREAT, COC, ETREAT, ERTREAT
        "0608000000000000"  # categories: CLIN.A, CLIN.B, CLIN.D; CLIN.C is not implied
        "0a00000000000000" "1400000000000000"  # start, end
        "13000000"  # labels: SUD, ETHUD, CANNUD; OPIOIDUD is not implied
        "0200" "0000" "51" "00" "00" "00"  # actions, side, flags: PERMIT and level R, depth, node, below
    )
    assert compiled(stored).rows.hex() == expected
    assert ROW_SIZE == 52


def test_a_deny_has_the_codes_that_it_names() -> None:
    (row,) = rows(consent(deny(purposes=("TREAT",), categories=("CLIN", "GEN"), labels=("SUD",), level="V")))
    assert (row.purposes, row.categories, row.labels, row.flags) == (0b1, 0b1_0001, 0b1, 0x60)


def test_no_limit_is_what_the_star_covers_for_a_permit_and_every_bit_for_a_deny() -> None:
    for stated in ((), (ANY,)):
        (permits,), (denies,) = (
            rows(consent(make(purposes=stated, categories=stated, actions=stated, labels=stated, actors=stated)))
            for make in (permit, deny)
        )
        # All but BTG, POARCH and HMARKT; the leaves without labels, but for CLIN.C; all but `correct`.
        assert (permits.purposes, permits.categories, permits.actions) == (0x397, 0x3C16, 0x17)
        assert (denies.purposes, denies.categories, denies.actions) == ((1 << 64) - 1, (1 << 64) - 1, 0xFFFF)
        assert (permits.labels, permits.actor, permits.holder, permits.flags) == (0, 0, 0, 1)
        assert (denies.labels, denies.flags) == (0, 0)


SENS_A, SENS_B, SENS_C, MIX_A, MIX_B = (VOCABULARY.category.bits[f"{one}"] for one in (
    "SENS.A", "SENS.B", "SENS.C", "MIX.A", "MIX.B"
))  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "covered"),
    [
        ({"categories": ("SENS.A",)}, SENS_A),
        ({"categories": ("SENS.B",)}, SENS_B),
        ({"categories": ("SENS", "MIX")}, SENS_C | MIX_B),  # not all of their leaves bear the label
        ({"categories": ("SENS", "SENS.A")}, SENS_A | SENS_C),
        ({"categories": ("SENS",), "labels": ("HIV",)}, SENS_A | SENS_C),
        ({"categories": ("SENS",), "labels": ("HIV", "SUD")}, SENS_A | SENS_B | SENS_C),
        ({"categories": ("SENS",), "labels": ("HIV", "OPIOIDUD")}, SENS_A | SENS_C),
        ({"categories": ("SENS", "MIX"), "resources": ("Observation/1",)}, SENS_A | SENS_B | SENS_C | MIX_A | MIX_B),
        ({"categories": ("SENS",), "resources": (ANY,)}, SENS_C),
    ],
)
def test_a_permit_covers_the_labels_of_a_category(limits: dict[str, Any], covered: int) -> None:
    (row,) = rows(consent(permit(**limits)))
    assert row.categories == covered


def test_a_category_all_of_whose_leaves_bear_a_label_is_named_for_it() -> None:
    """In the earlier version, both leaves below SENS bear HIV, and one bears ETHUD too."""
    made = compile_consent(consent(permit(categories=("SENS",))), EARLIER, NUMBERS, normal_level=HIGHEST_LEVEL)
    assert unpack_rows(made.rows)[0].categories == SENS_A
    gen = consent(permit(categories=("GEN",)))
    (row,) = unpack_rows(compile_consent(gen, DEFAULT_VOCABULARY, {}, normal_level=HIGHEST_LEVEL).rows)
    assert row.categories.bit_count() == 3


def test_a_group_is_marked() -> None:
    named = [{"actors": ("group/g",)}, {"holders": ("r", "group/h")}, {"actors": ("a", "b"), "holders": ("r",)}]
    assert [rows(consent(deny(**one)))[0].flags for one in named] == [GROUP, GROUP | SIDE, SIDE]


# -- implicit policies


def policy_rows(root: Provision, policy: ImplicitPolicy) -> list[Row]:
    tree, *found = rows(consent(root, policy=policy))
    assert (tree.flags & PERMIT, tree.below) == (root.effect is Effect.PERMIT, 0)
    return found


def test_a_policy_has_the_limits_of_the_root() -> None:
    root = permit(
        actors=("a",), holders=("r",), purposes=("TREAT",), categories=("CLIN", "SENS.A"), actions=("access",),
        level="R", start_ms=3, end_ms=4,
    )  # fmt: skip
    (denies,) = policy_rows(root, ImplicitPolicy.DENY)
    assert denies == Row(1, 4, 0b1, 0b100_0001, 3, 4, 0, 1, 0, 0x50, 0, 0, 0)
    for policy in (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL):
        (normal,) = policy_rows(root, policy)
        assert normal == Row(1, 4, 0x87, 0x806, 3, 4, 0, 1, 0, 0x50 | NORMAL | PERMIT, 0, 0, 0)
    rest, glass = policy_rows(root, ImplicitPolicy.BREAK_GLASS_ONLY)
    assert rest == denies._replace(below=1)
    assert glass == Row(1, 4, 0, 0x846, 3, 4, 0, 1, 0, 0x51, 1, 1, 0)


def test_a_policy_of_a_root_without_limits() -> None:
    (basic,), (every,) = (policy_rows(permit(purposes=(ANY,)), one) for one in list(ImplicitPolicy)[1:3])
    assert (basic.purposes, every.purposes) == (0x87, 0x397)
    assert basic.categories == every.categories == 0x3C16
    assert basic.flags == every.flags == 0x60 | NORMAL | PERMIT
    _, glass = policy_rows(permit(), ImplicitPolicy.BREAK_GLASS_ONLY)
    assert (glass.purposes, glass.categories, glass.flags) == (0b1000, 0x3C16, PERMIT)
    assert policy_rows(permit(purposes=("HRESCH",)), ImplicitPolicy.BASIC_NORMAL)[0].purposes == 0


@pytest.mark.parametrize(("stated", "normal", "level"), [("", "N", 4), ("R", "N", 4), ("L", "N", 2), ("", "V", 6)])
def test_a_normal_policy_has_the_lower_level_of_root_and_realm(stated: str, normal: str, level: int) -> None:
    stored = consent(permit(level=stated), policy=ImplicitPolicy.ALL_NORMAL)
    made = compile_consent(stored, VOCABULARY, NUMBERS, normal_level=LEVEL_NUMBERS[normal])
    assert unpack_rows(made.rows)[1].flags == level << 4 | NORMAL | PERMIT


@pytest.mark.parametrize("policy", ImplicitPolicy)
def test_a_policy_is_stored_behind_its_consent(policy: ImplicitPolicy) -> None:
    stored = consent(deny(opposite(), actors=("a", "b")), policy=policy)
    made = compiled(stored)
    assert len(made.rows) // ROW_SIZE == 2 + POLICY_ROWS[policy]
    value = with_consent(None, stored, made)
    assert decode_subject(value)[0].compiled == made
    assert ENTRY.unpack_from(value, HEADER.size)[4] == 1  # the rows of the tree, minus 1
    assert len({row.side for row in unpack_rows(made.rows)}) == 1
    assert only_denies(compiled(consent(deny(), policy=policy))) is (policy is ImplicitPolicy.DENY)


def test_a_window_that_never_opens_is_empty() -> None:
    _, child = rows(consent(deny(opposite(start_ms=50), end_ms=40)))
    assert (child.start_ms, child.end_ms) == (0, 0)


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (permit(actors=("nobody",)), "UNKNOWN_PARTICIPANT"),
        (deny(opposite(holders=("r", "nobody"))), "UNKNOWN_PARTICIPANT"),
        (permit(purposes=("FUN",)), "UNKNOWN_CODE"),
        (permit(labels=("FUN",)), "UNKNOWN_CODE"),
        (permit(level="X"), "INVALID_CONSENT"),
        (opposite(), "INVALID_CONSENT"),
        (permit(resources=("x" * 70_000,)), "INVALID_CONSENT"),
        (permit(resources=tuple("x" * 40_000 + str(index) for index in range(7))), "INVALID_CONSENT"),
    ],
)
def test_what_cannot_be_compiled_is_refused(root: Provision, reason: str) -> None:
    with pytest.raises(PreconditionError if reason == "UNKNOWN_PARTICIPANT" else InvalidError) as caught:
        compiled(consent(root))
    assert caught.value.reason == reason


@pytest.mark.parametrize("word", ["nobody", "FUN"])
def test_what_is_unknown_is_named(word: str) -> None:
    with pytest.raises((InvalidError, PreconditionError), match=f"`{word}`"):
        compiled(consent(permit(**({"actors": (word,)} if word == "nobody" else {"purposes": (word,)}))))


def test_an_unreadable_consent_keeps_what_needs_no_vocabulary() -> None:
    root = permit(opposite(), actors=("a", "b"), holders=("nobody",), purposes=("FUN",), start_ms=3, end_ms=4)
    made = compiled(consent(root, readable=False, policy=ImplicitPolicy.DENY))
    (row,) = unpack_rows(made.rows)
    assert made.flags == UNREADABLE
    assert decode_side(made.side, row.side).actors == {1, 2}
    assert (row.holder, row.start_ms, row.end_ms) == (0, 3, 4)


INSTANTS_64 = st.integers(OPEN_START_MS, OPEN_END_MS)


@given(
    st.builds(
        Side,
        actors=st.frozensets(st.integers(1, 2**32 - 1), max_size=4),
        holders=st.frozensets(st.integers(1, 2**32 - 1), max_size=4),
        resources=st.frozensets(st.text(min_size=1, max_size=9), max_size=3),
        data_period=st.none() | st.builds(Period, INSTANTS_64, INSTANTS_64),
    )
)
def test_side_records_come_back(side: Side) -> None:
    block = SideBlock()
    before = block.add(Side(holders=side.actors, resources=frozenset({"x"})))
    word = block.add(side)
    assert block.add(side) == word
    assert len(block.encoded) % 4 == 0
    found = decode_sides(bytes(block.encoded), (word, before, word))
    assert found == {word: side, before: Side(holders=side.actors, resources=frozenset({"x"}))}


# -- the subject value


def test_a_subject_of_three_rows_is_254_bytes() -> None:
    value = World([consent(permit(purposes=("TREAT",)), lineage) for lineage in (1, 2, 3)], Rules()).value
    assert value is not None
    assert len(value) == 8 + 3 * 30 + 3 * 52 == 254


@given(st.randoms(use_true_random=False).map(Draw))
@settings(max_examples=150)
def test_decoding_is_the_inverse_of_encoding(draw: Draw) -> None:
    world = draw.world()
    if world.value is None:
        assert not world.consents
        return
    lineages = decode_subject(world.value)
    assert encode_subject(lineages) == world.value
    newest = sorted(world.consents, key=lambda stored: stored.lineage)
    assert [(one.lineage, one.seq, one.version, one.paused) for one in lineages] == [
        (one.lineage, one.seq, one.version, one.paused) for one in newest
    ]


@given(st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_any_bytes_are_a_value_or_malformed(rng: random.Random) -> None:
    value = bytearray(Draw(rng).world().value or rng.randbytes(rng.randint(0, 90)))
    for _ in range(rng.randint(1, 3)):
        act = rng.choice(["flip", "cut", "add"])
        if act == "flip" and value:
            value[rng.randrange(min(len(value), rng.choice([8, 60, 10_000])))] ^= 1 << rng.randrange(8)
        elif act == "cut":
            del value[rng.randint(0, len(value)) :]
        else:
            value += rng.randbytes(rng.randint(1, 9))
    for decode in (decode_subject, lambda text: decode_rules(text, VOCABULARY)):
        try:
            decode(bytes(value))
        except MalformedError:
            continue


@given(st.randoms(use_true_random=False))
def test_a_value_without_its_end_is_malformed(rng: random.Random) -> None:
    value = Draw(rng).world().value or b""
    for end in {rng.randrange(1, len(value)) for _ in range(5)} | {8 + 30} if len(value) > 8 + 30 else ():
        with pytest.raises(MalformedError):
            decode_subject(value[:end])


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (0, 1), (1, 1), (1, 2), (2, 1), (4, 1), (6, 1), (20, 1), (21, 2), (21, 4), (21, 8), (21, 0x80),
        (78, 1), (86, 2), (86, 4), (86, 8), (86, 0x70), (87, 1), (88, 1), (89, 1),
    ],
)
def test_one_form_only(at: int, change: int) -> None:
    """Header, flags and rows of an entry; labels, flags, depth, node and below of a row: none may say anything else."""
    value = bytearray(World([consent(permit())], Rules()).value or b"")
    value[at] ^= change
    with pytest.raises(MalformedError):
        decode_subject(bytes(value))


def test_the_first_row_with_a_side_record_has_the_first_record() -> None:
    """A reader relies on it, to see with one look whether a lineage's record has reserved fields."""
    root = permit(permit(actors=("a", "c")), actors=("a", "b"))
    value = bytearray(World([consent(root)], Rules()).value or b"")
    first, second = (HEADER.size + ENTRY.size + at + 46 for at in (0, ROW_SIZE))
    assert decode_subject(bytes(value))
    assert value[first] == 0 < value[second]
    value[first], value[second] = value[second], value[first]
    with pytest.raises(MalformedError):
        decode_subject(bytes(value))


def test_editing_a_subject() -> None:
    first, second = consent(permit()), consent(deny(), 2)
    one = with_consent(None, first, compiled(first))
    both = with_consent(one, second, compiled(second))
    assert without_consent(both, 2) == one
    assert without_consent(one, 1) == b""
    paused = with_state(both, 2, paused=True)
    assert [lineage.paused for lineage in decode_subject(paused)] == [False, True]
    assert with_state(paused, 2, paused=False) == both
    amended = consent(deny(), 2, seq=7, version=2)
    assert [lineage.seq for lineage in decode_subject(with_consent(both, amended, compiled(amended)))] == [1, 7]


def test_editing_what_is_not_there() -> None:
    value = World([consent(permit())], Rules()).value
    for edit in (lambda: with_state(value, 2, paused=True), lambda: without_consent(None, 1)):
        with pytest.raises(NotFoundError) as caught:
            edit()
        assert caught.value.reason == "CONSENT_NOT_FOUND"


@pytest.mark.parametrize(
    "ids",
    [{"lineage": 1 << 32, "seq": 1 << 32}, {"seq": 1 << 32}, {"version": 65_536}, {"lineage": 9}, {"version": 0}],
)
def test_what_the_directory_cannot_hold_is_refused(ids: dict[str, int]) -> None:
    stored = replace(consent(permit()), **ids)
    with pytest.raises(PreconditionError):
        with_consent(None, stored, compiled(stored))


def test_a_compiled_consent_comes_back() -> None:
    stored = consent(permit(actors=("a", "b")), policy=ImplicitPolicy.DENY, kind=Kind.STATUTORY, since=1 << 63)
    made = compiled(stored)
    assert (made.flags, made.since) == (0x14, 1 << 63)
    (lineage,) = decode_subject(with_consent(None, stored, made))
    assert lineage.compiled == made



def test_a_lineage_with_an_authority_is_not_simple_and_one_with_a_notice_is() -> None:
    stored = consent(permit(actors=("a",)))
    (lineage,) = decode_subject(with_consent(None, stored, compiled(stored)))
    assert encode_subject([lineage])[1] & SIMPLE
    assert encode_subject([replace(lineage, notice=5)])[1] & SIMPLE
    assert not encode_subject([replace(lineage, authority=5)])[1] & SIMPLE


# -- rules


def test_rules_come_back_from_their_bytes() -> None:
    for seed in range(40):
        rules = Draw(random.Random(seed)).rules()
        made = compile_rules(rules, VOCABULARY, NUMBERS, since=seed)
        assert decode_rules(made.encoded, VOCABULARY) == made
        assert (made.combining, made.implicit_policy) == (rules.combining, rules.implicit_policy)
        assert (made.since, LEVELS[made.normal_level - 1]) == (seed, rules.normal_level)
        assert len(made.policy) == (0, 0, 1, 1, 2)[rules.implicit_policy]
        assert (made.otherwise is None) is (rules.combining is not Combining.PERMIT_UNLESS_DENY)
        assert (len(made.statutory), len(made.break_glass)) == (len(rules.statutory), len(rules.break_glass))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 6, 8, 10])
def test_rules_that_cannot_be_read(at: int) -> None:
    encoded = bytearray(compile_rules(Rules(combining=Combining.DENY_UNLESS_PERMIT), VOCABULARY, NUMBERS).encoded)
    encoded[at] ^= 0x18
    with pytest.raises(MalformedError):
        decode_rules(bytes(encoded), VOCABULARY)


def test_rules_have_limits() -> None:
    for rules in (Rules(statutory=(deny(),) * 1025), Rules(break_glass=(deny(deny()),))):
        with pytest.raises(InvalidError):
            compile_rules(rules, VOCABULARY, NUMBERS)


def test_a_break_glass_rule_need_not_name_the_purpose() -> None:
    stated = [(), (ANY,), ("TREAT",), ("BTG",)]
    for make, found in ((permit, (0x39F, 0x39F, 0x87, 0b1000)), (deny, ((1 << 64) - 1,) * 2 + (0b1, 0b1000))):
        made = compile_rules(Rules(break_glass=tuple(make(purposes=one) for one in stated)), VOCABULARY, NUMBERS)
        assert tuple(row.purposes for row, _ in made.break_glass) == found


def test_statutory_rules_are_found_by_purpose() -> None:
    rules = Rules(statutory=(permit(purposes=("TREAT",)), deny(purposes=("TREAT",)), deny(purposes=("ERTREAT",))))
    made = compile_rules(rules, VOCABULARY, NUMBERS)
    found = {
        code: [path for _, path in made.by_purpose.get(VOCABULARY.purpose.bits[code], ())]
        for code in ("TREAT", "BTG", "ERTREAT", "HMARKT")
    }
    first, second, third = (f"statutory[{index}]" for index in range(3))
    assert found == {"TREAT": [first, second], "BTG": [second], "ERTREAT": [first, second, third], "HMARKT": []}


# -- the specification


def test_the_specification_has_the_same_layout() -> None:
    """The worked example of the specification is what this code writes."""
    text = FORMAT.read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:[0-9a-f]+ ?)+)(?: .*)?$", text[text.index("### Worked example") :], re.MULTILINE)
    example = "".join(lines)
    consents = [
        StoredConsent(3, 5, 2, Consent(kind=Kind.CONSENT, policy=ImplicitPolicy.BREAK_GLASS_ONLY, root=permit(
            actors=("a",), holders=("r",), purposes=("TREAT",), categories=("CLIN", "SENS.A"), actions=("collect",),
            labels=("SUD",), level="R", start_ms=10, end_ms=20)), since=300),
        StoredConsent(4, 4, 1, Consent(kind=Kind.OBJECTION, root=deny(
            opposite(data_period=Period(-1, 2)), actors=("a", "group/g"))), paused=True, since=200),
    ]
    value = World(consents, Rules()).value
    assert value is not None
    assert bytes.fromhex(example.replace(" ", "")) == value
    assert HEADER.unpack_from(value)[3] == 2
