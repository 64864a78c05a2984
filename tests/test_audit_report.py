"""The page of accesses: its counts are what the ledger has, and it needs no other file."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, ORIGIN, START_MS, Forge, PrunedLocation, make_forge
from consentd.audit import drawing
from consentd.audit.access_summary import HOUR_MS, AccessSummary, summarise
from consentd.audit.page import _REASONS, render
from consentd.audit.sources import ExportDirectory
from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def count(location: Any, **options: Any) -> AccessSummary:
    return summarise(location, origin=ORIGIN, log_verifier=LOG.verifier, **options)


def break_glass(forge: Forge, tag: bytes, justification: str, organisation: str = "bank") -> None:
    actor = pb.Actor(organisation=organisation, on_behalf_of="ward", application="software", relays=["carrier"])
    question = pb.Question(
        actor=actor, holder="hospital", purpose="BTG",
        break_glass=pb.BreakGlass(justification=justification),
    )
    asked = st.AskedQuestion(question=question.SerializeToString(), asker="bank")
    record = st.AccessStatement(asked=asked, decision=pb.Decision(outcome=pb.OUTCOME_PERMIT))
    forge.add(EntryKind.ACCESS, tag, record)


@pytest.fixture(scope="module")
def forge() -> Forge:
    made = make_forge(900)
    tag = next(tag for tag, (count, _) in made.heads.items() if count > 1)
    made.time_ms += 5 * HOUR_MS
    break_glass(made, tag, "<script>alert(1)</script> & 의식 없음")
    made.seal()
    return made


def test_what_is_counted_is_what_the_ledger_holds(forge: Forge, location: ExportDirectory) -> None:
    found = count(location)
    kinds = [leaf[1] for leaf in forge.leaves]
    assert found.entries == len(forge.leaves) - len(forge.seals)
    for counted in (found.by_organisation, found.by_caller, found.by_purpose):
        assert sum(counted.values()) == kinds.count(EntryKind.ACCESS)
    assert {name for _, name in found.by_caller} == {"bank"}
    assert found.refusals == {"NO_MATCHING_CONSENT": kinds.count(EntryKind.REFUSAL)}
    assert {name for _, name in found.by_purpose} == {"CAREMGT", "BTG"}
    assert (found.seal_count, found.persons) == (len(forge.seals), kinds.count(EntryKind.ENROL))
    assert [one.index for one in found.break_glass] == [forge.size - 2]
    assert [(gap.index, gap.length_ms) for gap in found.gaps] == [(forge.size - 2, 5 * HOUR_MS + 7)]
    assert (found.skew_count, found.closed) == (0, 0)
    assert {interval for interval, _ in found.by_organisation} <= set(range(found.intervals))


def test_without_openings_it_says_what_does_not_show(forge: Forge, location: ExportDirectory) -> None:
    found = count(ExportDirectory(location.directory))
    assert found.closed == len(forge.asked) + 1
    assert not found.by_organisation
    page = render(found, made_s=0)
    assert "outside the mandate" in page
    assert page.count("none among the available statements") == 5  # not: that there was nothing
    assert f"<b>{found.kinds['ACCESS']:,}</b><span>허용된 열람</span>" in page  # kinds are known without statements


def test_leaves_that_the_log_did_not_sign_are_refused(forge: Forge, tmp_path: Path) -> None:
    other = Forge(leaves=[*forge.leaves[:5], forge.leaves[4], *forge.leaves[6:]], openings=forge.openings)
    location = other.write(tmp_path / "log")
    (tmp_path / "log" / "checkpoint").write_bytes(forge.note())
    with pytest.raises(ProofError, match="root"):
        count(location)
    with pytest.raises(InvalidError, match="not in the tree"):
        count(location, index=forge.size)


def test_the_page_stands_by_itself(location: ExportDirectory) -> None:
    page = render(count(location), made_s=1_800_000_000)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; 의식 없음" in page
    assert "bank, ward, software, carrier" in page
    for word in (
        "이용기관별 열람", "요청기관별 열람", "refusals by reason", "긴급 열람", "gaps and clocks", "체크포인트",
        "Merkle path",
    ):  # fmt: skip
        assert word in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.attrib["aria-label"]
    assert len(re.findall(r"<svg", page)) == 6


def test_a_persons_tag_is_nowhere_in_it(forge: Forge, location: ExportDirectory) -> None:
    page = render(count(location), made_s=0)
    assert not any(tag.hex() in page for tag in forge.heads)


@pytest.mark.parametrize("index", [0, 255, 256, 511, 900])
def test_the_drawn_path_is_the_inclusion_proof(forge: Forge, location: ExportDirectory, index: int) -> None:
    found = count(location, index=index)
    path = found.path
    assert path is not None
    node = path.leaf_hash
    for sibling, is_left in zip(
        path.hashes, drawing.path_sides(index, forge.size, len(path.hashes)), strict=True
    ):
        node = merkle.node_hash(sibling, node) if is_left else merkle.node_hash(node, sibling)
    assert node == found.checkpoint.root
    assert path.leaf_hash == merkle.leaf_hash(forge.leaves[index])
    page = render(found, made_s=0)
    assert all(sibling.hex()[:20] in page for sibling in path.hashes)


def test_many_seals_and_intervals_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consentd.audit.access_summary.MAX_SEALS", 10)
    forge = make_forge(900, seal_every=5)
    forge.time_ms += 400 * 24 * HOUR_MS
    forge.add(EntryKind.ENROL, bytes(range(32)), st.EnrolStatement(scheme="test"))
    forge.seal()
    found = count(forge.write(tmp_path / "a", tmp_path / "b"))
    assert len(found.seals) <= 10 < found.seal_count
    assert found.intervals <= 61
    assert render(found, made_s=0).count("<rect") < 1000


def test_a_clock_that_differs_is_listed(tmp_path: Path) -> None:
    forge = make_forge(300)
    location = forge.write(tmp_path / "a", tmp_path / "b")
    found = count(location, skew_ms=0)
    assert found.skew_count == 0
    statement = codec.Statement(bytes(32), bytes(64), bytes(16), START_MS, b"")
    salt, encoded = bytes(32), codec.encode_statement(statement)
    event = codec.Event(
        EntryKind.SERVED, forge.time_ms + HOUR_MS, bytes(range(32)), 1, codec.ZERO_HASH, codec.commit(salt, encoded), 0
    )
    forge.leaves.append(codec.encode_event(event))
    forge.openings.append(salt + encoded)
    found = count(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [index for index, _ in found.skewed] == [forge.size - 1]
    assert "differs" in render(found, made_s=0)


# -- what a ledger's writers chose ------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></svg><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>&amp;",
    "\u202egnp.exe\u202c\u2066\u200f",
    "제\x00어\x1b[31m\x7f\u0085\u2028",
    "가" * 400,
    "W" * 4000,
]


def access(forge: Forge, tag: bytes, organisation: str, **decision: Any) -> None:
    question = pb.Question(actor=pb.Actor(organisation=organisation), holder="hospital", purpose="TREAT")
    asked = st.AskedQuestion(question=question.SerializeToString(), asker=organisation)
    record = st.AccessStatement(asked=asked, decision=pb.Decision(**{"outcome": pb.OUTCOME_PERMIT, **decision}))
    if record.decision.outcome == pb.OUTCOME_PERMIT:
        forge.add(EntryKind.ACCESS, tag, record)
    else:
        forge.add(EntryKind.REFUSAL, tag, st.RefusalStatement(access=record))


def test_hostile_text_is_text(tmp_path: Path) -> None:
    forge = make_forge(200)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    for number, text in enumerate(HOSTILE):
        name = {"ko": text, "en": text[::-1]}
        forge.add(
            EntryKind.PARTICIPANT, codec.public_tag(f"participant/p{number}"),
            st.ParticipantStatement(participant_id=f"p{number}", name=name, active=True),
        )  # fmt: skip
        for _ in range(20):  # often enough to be drawn
            access(forge, tag, f"p{number}")
        access(forge, tag, text)  # an id that is none
        break_glass(forge, tag, text, f"p{number}")
    forge.seal()
    page = render(count(forge.write(tmp_path / "a", tmp_path / "b")), made_s=0)
    assert len(page) < 200_000
    parser = Seen()
    parser.feed(page)
    assert set(parser.tags) <= KNOWN_TAGS
    assert set(parser.attributes) <= KNOWN_ATTRIBUTES
    assert [parser.tags.count(tag) for tag in ("html", "head", "style", "body")] == [1] * 4
    assert not [char for char in page if char != "\n" and not char.isprintable()]
    for shown in ("⟨U+202E⟩gnp.exe⟨U+202C⟩", "⟨U+001B⟩[31m⟨U+007F⟩", "가" * 80 + "… (+320)", "W" * 600 + "… (+3,400)"):
        assert shown in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)


KNOWN_TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "footer", "h1", "h2", "small", "p", "div", "b", "span",
    "figure", "svg", "line", "text", "rect", "path", "polyline", "i", "bdi", "details", "summary", "table", "thead",
    "tbody", "tr", "th", "td", "br", "code",
}  # fmt: skip
KNOWN_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "style", "scope", "tabindex", "viewbox", "role",
    "aria-label", "x", "y", "x1", "x2", "y1", "y2", "stroke", "stroke-width", "text-anchor", "font-size", "fill",
    "width", "height", "d", "points", "rx", "font-family", "font-weight",
}  # fmt: skip


class Seen(HTMLParser):
    """Which tags and attributes a page really has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_the_page_may_load_nothing(location: ExportDirectory) -> None:
    page = render(count(location), made_s=0)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].split("; ")[0] == "default-src 'none'"
    assert page.index("Content-Security-Policy") < page.index("<title>")  # before anything of the ledger


def test_what_is_drawn_can_be_read_without_seeing_it(forge: Forge, location: ExportDirectory) -> None:
    page = render(count(location), made_s=0)
    tables = re.findall(r"<details>.*?</details>", page, re.DOTALL)
    assert len(tables) == 4
    numbers = [int(cell.replace(",", "")) for cell in re.findall(r'<td class="n">([0-9,]+)</td>', tables[0])]
    assert sum(numbers) == [leaf[1] for leaf in forge.leaves].count(EntryKind.ACCESS)
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert "<th>" not in table
        assert 'scope="col"' in table
    assert page.count('<div class="wide" tabindex="0">') == page.count("<table")


def test_two_of_the_same_name_are_shown_with_their_ids(tmp_path: Path) -> None:
    forge = make_forge(200)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    for name in ("snuh", "impostor"):
        forge.add(
            EntryKind.PARTICIPANT, codec.public_tag(f"participant/{name}"),
            st.ParticipantStatement(participant_id=name, name={"ko": "서울대병원", "en": "SNUH"}, active=True),
        )  # fmt: skip
        access(forge, tag, name)
    forge.seal()
    page = render(count(forge.write(tmp_path / "a", tmp_path / "b")), made_s=0)
    assert "서울대병원 · SNUH [snuh]" in page
    assert "서울대병원 · SNUH [impostor]" in page


def test_what_permits_a_part_is_no_reason_of_a_refusal_and_later_codes_are_numbers(tmp_path: Path) -> None:
    forge = make_forge(200)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    before = count(forge.write(tmp_path / "a", tmp_path / "b")).refusals.copy()
    codes = (pb.REASON_CODE_PERMITTED_BY_LAW, pb.REASON_CODE_DENIED_BY_LAW, 99)
    reasons = [pb.DecisionReason(code=code) for code in codes]
    access(forge, tag, "bank", outcome=77, reasons=reasons)
    for ground in ("R05", "R99", "R05"):
        forge.add(EntryKind.REFUSAL, tag, st.RefusalStatement(reason=ground))
    forge.seal()
    found = count(forge.write(tmp_path / "a", tmp_path / "b"))
    assert found.refusals - before == {"DENIED_BY_LAW": 1, "CODE 99": 1}
    assert found.refused_consents == {"R05": 2, "R99": 1}
    page = render(found, made_s=0)
    assert all(text in page for text in ("CODE 99", "R05 요구사항 미특정 · items of the request not specified", "R99"))


def test_every_reason_has_a_name_in_korean() -> None:
    codes = [name.removeprefix("REASON_CODE_") for name in pb.ReasonCode.keys()]  # noqa: SIM118  # an enum, no dict
    named = {code for code in codes if not code.startswith("PERMITTED_") and code != "UNSPECIFIED"}
    assert named == set(_REASONS)


@pytest.mark.parametrize("later_ms", [60 * 366 * 24 * HOUR_MS, 1 << 62, (1 << 64) - 8])
def test_times_that_no_calendar_has_are_shown(tmp_path: Path, later_ms: int) -> None:
    forge = make_forge(200)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.time_ms = max(forge.time_ms, later_ms)
    access(forge, tag, "bank")
    forge.seal()
    found = count(forge.write(tmp_path / "a", tmp_path / "b"))
    assert found.intervals <= 61
    page = render(found, made_s=0)
    assert len(page) < 200_000
    assert f"{found.end_ms:,} ms" in page or later_ms < 1 << 60


def test_what_is_pruned_is_not_counted_and_is_no_silence(forge: Forge, location: ExportDirectory) -> None:
    kept = PrunedLocation(forge, location, forge.seals[3] + 1)
    found, whole = count(kept, gap_ms=1), count(location, gap_ms=1)
    assert found.pruned == len(kept.gone) > 100
    assert found.entries + found.seal_count == forge.size - found.pruned
    # Each step of this ledger's clock is a silence of more than a millisecond. After a pruned leaf none is listed.
    assert len(found.gaps) > 100
    assert not any(gap.index - 1 in kept.gone for gap in found.gaps)
    assert any(gap.index - 1 in kept.gone for gap in whole.gaps)
    assert "are pruned, and not counted" in render(found, made_s=0)
    assert "pruned" not in render(whole, made_s=0)
