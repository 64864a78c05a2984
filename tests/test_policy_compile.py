"""What is written: consents checked, compiled to the bytes that proto/table-format.md specifies, joined and edited."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.decisions import consent, deny, opposite, permit
from cases.policy_worlds import NUMBERS, VOCABULARY, Draw, World
from consentd.errors import InvalidError, MalformedError, NotFoundError
from consentd.policy.check import check_consent, check_rules
from consentd.policy.compile import Compiled, compile_consent, compile_rules, decode_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import (
    ANY,
    OPEN_END_MS,
    Combining,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Period,
    Provision,
    RefusalReason,
    Rules,
    StoredConsent,
)
from consentd.policy.rows import ROW_SIZE, Row, Side, SideBlock, decode_side, decode_sides, unpack_rows
from consentd.policy.subject import HEADER, decode_subject, encode_subject, with_consent, with_state, without_consent
from consentd.policy.tree import paths, walk

FORMAT = Path(__file__).parents[1] / "proto" / "table-format.md"
STATED: dict[str, Any] = {"purposes": ("TREAT",), "actors": ("hospital",), "categories": ("CLIN",)}


def compiled(stored: StoredConsent) -> Compiled:
    return compile_consent(stored, VOCABULARY, NUMBERS)


def rows(stored: StoredConsent) -> list[Row]:
    return unpack_rows(compiled(stored).rows)


# -- what a consent must be


def transfer(**changes: Any) -> Consent:
    root = permit(**(STATED | {"holders": ("nhis",), "end_ms": 5_000} | changes.pop("limits", {})))
    stated = {"kind": Kind.TRANSFER_REQUEST, "root": root, "recurrence": "P1M", "retention_until_ms": 9_000}
    return Consent(**(stated | changes))


def test_a_transfer_request_with_all_seven_items() -> None:
    assert check_consent(transfer(), DEFAULT_VOCABULARY) is None
    assert check_consent(transfer(limits={"holders": (ANY,)}, recurrence="once"), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize(
    "lacking",
    [{"limits": {name: ()}} for name in ("purposes", "holders", "actors", "categories")]
    + [{"limits": {"end_ms": OPEN_END_MS}}, {"recurrence": ""}, {"retention_until_ms": 0}],
)
def test_a_transfer_request_that_lacks_one_is_refused_with_r05(lacking: dict[str, Any]) -> None:
    assert check_consent(transfer(**lacking), DEFAULT_VOCABULARY) is RefusalReason.R05_UNSPECIFIED_ITEMS


@pytest.mark.parametrize("missing", list(STATED))
def test_a_consent_names_purpose_recipient_and_data(missing: str) -> None:
    whole = Consent(kind=Kind.CONSENT, root=permit(**STATED))
    assert check_consent(whole, DEFAULT_VOCABULARY) is None
    lacking = permit(**(STATED | {missing: ()}))
    for root in (lacking, deny(replace(lacking, effect=None))):
        with pytest.raises(InvalidError) as caught:
            check_consent(replace(whole, root=root), DEFAULT_VOCABULARY)
        assert caught.value.reason == "INVALID_CONSENT"
    stars = replace(whole, root=permit(**(STATED | {missing: (ANY,)})))
    assert check_consent(stars, DEFAULT_VOCABULARY) is None
    inherited = replace(whole, root=deny(permit(purposes=("HRESCH",)), **STATED))
    assert check_consent(inherited, DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("missing", list(STATED))
def test_a_permit_within_an_objection_names_them_too(missing: str) -> None:
    objection = Consent(kind=Kind.OBJECTION, root=deny(permit(**STATED)))
    assert check_consent(objection, DEFAULT_VOCABULARY) is None
    stars = deny(permit(**(STATED | {missing: (ANY,)})))
    assert check_consent(replace(objection, root=stars), DEFAULT_VOCABULARY) is None
    for depth in (1, 3):
        root = permit(**(STATED | {missing: ()}))
        for _ in range(depth):
            root = deny(root)
        with pytest.raises(InvalidError) as caught:
            check_consent(replace(objection, root=root), DEFAULT_VOCABULARY)
        assert caught.value.reason == "INVALID_CONSENT"


def test_an_objection_denies() -> None:
    assert check_consent(Consent(kind=Kind.OBJECTION, root=deny()), DEFAULT_VOCABULARY) is None
    with pytest.raises(InvalidError) as caught:
        check_consent(Consent(kind=Kind.OBJECTION, root=permit(**STATED)), DEFAULT_VOCABULARY)
    assert caught.value.reason == "INVALID_CONSENT"


def nest(depth: int) -> Provision:
    return deny(*([nest(depth - 1)] if depth > 1 else []))


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (opposite(), "INVALID_CONSENT"),
        (nest(9), "INVALID_CONSENT"),
        (deny(*[deny()] * 256), "INVALID_CONSENT"),
        (deny(purposes=("TREAT", "TREAT")), "INVALID_CONSENT"),
        (deny(actors=("*", "hospital")), "INVALID_CONSENT"),
        (deny(holders=("",)), "INVALID_CONSENT"),
        (deny(start_ms=5, end_ms=5), "INVALID_CONSENT"),
        (deny(start_ms=-1), "INVALID_CONSENT"),
        (deny(end_ms=OPEN_END_MS + 1), "INVALID_CONSENT"),
        (deny(data_period=Period(7, 3)), "INVALID_CONSENT"),
        (deny(opposite(purposes=("FUN",))), "UNKNOWN_CODE"),
        (deny(categories=("TREAT",)), "UNKNOWN_CODE"),
        (deny(actions=("eat",)), "UNKNOWN_CODE"),
        (deny(labels=("PURPLE",)), "UNKNOWN_CODE"),
    ],
)
def test_a_consent_that_contradicts_itself_is_an_error(root: Provision, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_consent(Consent(kind=Kind.OBJECTION, root=root), DEFAULT_VOCABULARY)
    assert caught.value.reason == reason


def test_limits_are_reachable() -> None:
    for root in (nest(8), deny(*[deny()] * 255)):
        assert check_consent(Consent(kind=Kind.OBJECTION, root=root), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("text", ["once", "P1M", "P1Y6M", "PT12H", "P2W", "P1DT30M"])
def test_recurrence(text: str) -> None:
    assert check_consent(transfer(recurrence=text), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("text", ["P", "PT", "P1DT", "1M", "monthly", "P-1D", "P1M "])
def test_what_is_no_recurrence(text: str) -> None:
    with pytest.raises(InvalidError):
        check_consent(transfer(recurrence=text), DEFAULT_VOCABULARY)


def test_retention_is_no_time_before_the_epoch() -> None:
    with pytest.raises(InvalidError):
        check_consent(transfer(retention_until_ms=-1), DEFAULT_VOCABULARY)


@pytest.mark.parametrize("rule", [opposite(), deny(deny()), deny(purposes=("FUN",))])
def test_rules_of_the_realm_are_flat_and_stated(rule: Provision) -> None:
    for rules in (Rules(statutory=(rule,)), Rules(break_glass=(rule,))):
        with pytest.raises(InvalidError):
            check_rules(rules, DEFAULT_VOCABULARY)
    check_rules(Rules(statutory=(deny(purposes=("HMARKT",)),), break_glass=(permit(),)), DEFAULT_VOCABULARY)


# -- trees


def test_paths_follow_preorder() -> None:
    depths = [0, 1, 2, 2, 1, 2, 3, 1]
    assert paths(depths) == [
        "",
        "provision[0]",
        "provision[0].provision[0]",
        "provision[0].provision[1]",
        "provision[1]",
        "provision[1].provision[0]",
        "provision[1].provision[0].provision[0]",
        "provision[2]",
    ]


def test_effective_attributes() -> None:
    inner = opposite(purposes=("COC",), start_ms=3, end_ms=30, data_period=Period(1, 2))
    between = opposite(inner, labels=("HIV",), start_ms=1, end_ms=20)
    root = permit(between, purposes=("TREAT",), actors=("a",), end_ms=25)
    _, middle, last = walk(root)
    assert [middle.provision.effect, last.provision.effect] == [Effect.DENY, Effect.PERMIT]
    found = last.provision
    assert (found.purposes, found.actors, found.labels) == (("COC",), ("a",), ("HIV",))
    assert (found.start_ms, found.end_ms, found.data_period) == (3, 20, Period(1, 2))
    assert [middle.depth, middle.below, last.depth, last.below] == [1, 1, 2, 0]


# -- rows


def test_a_row_is_52_bytes_as_specified() -> None:
    stored = consent(
        permit(actors=("b",), holders=("r",), purposes=("TREAT",), categories=("CLIN",), actions=("disclose",),
               labels=("SUD",), start_ms=10, end_ms=20)
    )
    expected = (
        "02000000" "04000000"  # actor, holder
        "0700000000000000"  # purposes: TREAT, COC, ETREAT
        "0300000000000000"  # categories: CLIN.A, CLIN.B; CLIN.C is not implied
        "0a00000000000000" "1400000000000000"  # start, end
        "06000000"  # labels: SUD, ETHUD
        "0200" "0000" "01" "00" "00" "00"  # actions, side, flags, depth, node, below
    )
    assert compiled(stored).rows.hex() == expected
    assert ROW_SIZE == 52


def test_a_deny_covers_all_below() -> None:
    (row,) = rows(consent(deny(purposes=("TREAT",), categories=("CLIN",), labels=("SUD",))))
    assert (row.purposes, row.categories, row.labels, row.flags) == (0b1111, 0b0111, 0b1110, 0)


def test_no_limit_is_all_known_codes_for_a_permit_and_every_bit_for_a_deny() -> None:
    (permits,), (denies,) = rows(consent(permit())), rows(consent(deny()))
    assert (permits.purposes, permits.categories, permits.actions) == (0x7F, 0x0F, 0x03)
    assert (denies.purposes, denies.categories, denies.actions) == ((1 << 64) - 1, (1 << 64) - 1, 0xFFFF)
    assert (permits.labels, permits.actor, permits.holder) == (0, 0, 0)


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
        (opposite(), "INVALID_CONSENT"),
        (permit(resources=("x" * 70_000,)), "INVALID_CONSENT"),
        (permit(resources=tuple("x" * 40_000 + str(index) for index in range(7))), "INVALID_CONSENT"),
    ],
)
def test_what_cannot_be_compiled_is_refused(root: Provision, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        compiled(consent(root))
    assert caught.value.reason == reason


@pytest.mark.parametrize("word", ["nobody", "FUN"])
def test_what_is_unknown_is_named(word: str) -> None:
    with pytest.raises(InvalidError, match=f"`{word}`"):
        compiled(consent(permit(**({"actors": (word,)} if word == "nobody" else {"purposes": (word,)}))))


def test_an_unreadable_consent_keeps_what_needs_no_vocabulary() -> None:
    root = permit(opposite(), actors=("a", "b"), holders=("nobody",), purposes=("FUN",), start_ms=3, end_ms=4)
    made = compiled(consent(root, readable=False))
    (row,) = unpack_rows(made.rows)
    assert decode_side(made.side, row.side).actors == {1, 2}
    assert (row.holder, row.start_ms, row.end_ms) == (0, 3, 4)


@given(
    st.builds(
        Side,
        actors=st.frozensets(st.integers(1, 2**32 - 1), max_size=4),
        holders=st.frozensets(st.integers(1, 2**32 - 1), max_size=4),
        resources=st.frozensets(st.text(min_size=1, max_size=9), max_size=3),
        data_period=st.none() | st.builds(Period, st.integers(0, OPEN_END_MS), st.integers(0, OPEN_END_MS)),
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


def test_a_subject_of_three_rows_is_206_bytes() -> None:
    """Bar S6: with its key at most 260 bytes, page overhead included."""
    value = World([consent(permit(purposes=("TREAT",)), lineage) for lineage in (1, 2, 3)], Rules()).value
    assert value is not None
    assert len(value) == 8 + 3 * 14 + 3 * 52 == 206


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


@pytest.mark.parametrize(
    ("at", "change"),
    [(0, 3), (1, 1), (2, 1), (4, 1), (21, 0x80), (22 + 49, 1), (22 + 50, 1), (22 + 51, 1), (22 + 48, 4)],
)
def test_one_form_only(at: int, change: int) -> None:
    """Format, simple flag, vocabulary, count, policy, depth, node, below, row flags: none may say anything else."""
    value = bytearray(World([consent(permit())], Rules()).value or b"")
    value[at] ^= change
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
    with pytest.raises(InvalidError):
        with_consent(None, stored, compiled(stored))


def test_a_compiled_consent_comes_back() -> None:
    stored = consent(permit(actors=("a", "b")), policy=ImplicitPolicy.DENY, kind=Kind.STATUTORY)
    made = compiled(stored)
    assert made.flags == 0x14
    (lineage,) = decode_subject(with_consent(None, stored, made))
    assert lineage.compiled == made


# -- rules


def test_rules_come_back_from_their_bytes() -> None:
    for seed in range(40):
        rules = Draw(random.Random(seed)).rules()
        made = compile_rules(rules, VOCABULARY, NUMBERS)
        assert decode_rules(made.encoded, VOCABULARY) == made
        assert (made.combining, made.implicit_policy) == (rules.combining, rules.implicit_policy)
        assert (len(made.statutory), len(made.break_glass)) == (len(rules.statutory), len(rules.break_glass))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 6])
def test_rules_that_cannot_be_read(at: int) -> None:
    encoded = bytearray(compile_rules(Rules(combining=Combining.DENY_UNLESS_PERMIT), VOCABULARY, NUMBERS).encoded)
    encoded[at] ^= 0x18
    with pytest.raises(MalformedError):
        decode_rules(bytes(encoded), VOCABULARY)


def test_rules_have_limits() -> None:
    for rules in (Rules(statutory=(deny(),) * 1025), Rules(break_glass=(deny(deny()),))):
        with pytest.raises(InvalidError):
            compile_rules(rules, VOCABULARY, NUMBERS)


# -- the specification


def test_the_specification_has_the_same_layout() -> None:
    """The worked example of the specification is what this code writes."""
    text = FORMAT.read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:[0-9a-f]+ ?)+)(?: .*)?$", text[text.index("### Worked example") :], re.MULTILINE)
    example = "".join(lines)
    consents = [
        StoredConsent(3, 5, 2, Consent(kind=Kind.CONSENT, root=permit(
            actors=("a",), holders=("r",), purposes=("TREAT",), categories=("CLIN",), start_ms=10, end_ms=20))),
        StoredConsent(4, 4, 1, Consent(kind=Kind.OBJECTION, root=deny(
            opposite(data_period=Period(1, 2)), actors=("a", "b"))), paused=True),
    ]
    value = World(consents, Rules()).value
    assert value is not None
    assert bytes.fromhex(example.replace(" ", "")) == value
    assert HEADER.unpack_from(value)[3] == 2
