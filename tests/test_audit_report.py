"""The report: what it counts is what the ledger holds, and the page stands by itself."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from audit_case import LOG, ORIGIN, START_MS, Forge, make_forge
from consentd.audit import drawing
from consentd.audit.page import render
from consentd.audit.places import Exported
from consentd.audit.report import HOUR_MS, Summary, summarise
from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def add_up(place: Any, **options: Any) -> Summary:
    return summarise(place, origin=ORIGIN, log_verifier=LOG.verifier, **options)


def urgent(forge: Forge, tag: bytes, justification: str) -> None:
    question = pb.Question(
        actor=pb.Actor(organisation="bank"), holder="hospital", purpose="BTG",
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
    urgent(made, tag, "<script>alert(1)</script> & 의식 없음")
    made.seal()
    return made


@pytest.fixture(scope="module")
def place(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("reported")
    return forge.write(directory / "log", directory / "openings")


def test_what_is_counted_is_what_the_ledger_holds(forge: Forge, place: Exported) -> None:
    found = add_up(place)
    kinds = [leaf[1] for leaf in forge.leaves]
    assert found.entries == len(forge.leaves) - len(forge.seals)
    assert sum(found.by_organisation.values()) == sum(found.by_purpose.values()) == kinds.count(EntryKind.ACCESS)
    assert found.refusals == {"NO_MATCHING_CONSENT": kinds.count(EntryKind.REFUSAL)}
    assert {name for _, name in found.by_purpose} == {"CAREMGT", "BTG"}
    assert (found.seal_count, found.persons) == (len(forge.seals), kinds.count(EntryKind.ENROL))
    assert [one.index for one in found.urgent] == [forge.size - 2]
    assert [(gap.index, gap.length_ms) for gap in found.gaps] == [(forge.size - 2, 5 * HOUR_MS + 7)]
    assert (found.skew_count, found.closed) == (0, 0)
    assert {interval for interval, _ in found.by_organisation} <= set(range(found.intervals))


def test_without_openings_it_says_what_does_not_show(forge: Forge, place: Exported) -> None:
    found = add_up(Exported(place.directory))
    assert found.closed == len(forge.asked) + 1
    assert not found.by_organisation
    assert "outside the mandate" in render(found, made_s=0)


def test_leaves_that_the_log_did_not_sign_are_refused(forge: Forge, tmp_path: Path) -> None:
    other = Forge(leaves=[*forge.leaves[:5], forge.leaves[4], *forge.leaves[6:]], openings=forge.openings)
    place = other.write(tmp_path / "log")
    (tmp_path / "log" / "checkpoint").write_bytes(forge.note())
    with pytest.raises(ProofError, match="root"):
        add_up(place)
    with pytest.raises(InvalidError, match="not in the tree"):
        add_up(place, index=forge.size)


def test_the_page_stands_by_itself(place: Exported) -> None:
    page = render(add_up(place), made_s=1_800_000_000)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; 의식 없음" in page
    for word in ("이용기관별 열람", "refusals by reason", "긴급 열람", "gaps and clocks", "체크포인트", "Merkle path"):
        assert word in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.attrib["aria-label"]
    assert len(re.findall(r"<svg", page)) == 5


def test_a_persons_tag_is_nowhere_in_it(forge: Forge, place: Exported) -> None:
    page = render(add_up(place), made_s=0)
    assert not any(tag.hex() in page for tag in forge.heads)


@pytest.mark.parametrize("index", [0, 255, 256, 511, 900])
def test_the_drawn_path_is_the_inclusion_proof(forge: Forge, place: Exported, index: int) -> None:
    found = add_up(place, index=index)
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
    monkeypatch.setattr("consentd.audit.report.MAX_SEALS", 10)
    forge = make_forge(900, seal_every=5)
    forge.time_ms += 400 * 24 * HOUR_MS
    forge.add(EntryKind.ENROL, bytes(range(32)), st.EnrolStatement(scheme="test"))
    forge.seal()
    found = add_up(forge.write(tmp_path / "a", tmp_path / "b"))
    assert len(found.seals) <= 10 < found.seal_count
    assert found.intervals <= 61
    assert render(found, made_s=0).count("<rect") < 1000


def test_a_clock_that_differs_is_told(tmp_path: Path) -> None:
    forge = make_forge(300)
    place = forge.write(tmp_path / "a", tmp_path / "b")
    found = add_up(place, skew_ms=0)
    assert found.skew_count == 0
    statement = codec.Statement(bytes(32), bytes(64), bytes(16), START_MS, b"")
    salt, encoded = bytes(32), codec.encode_statement(statement)
    event = codec.Event(
        EntryKind.SERVED, forge.time_ms + HOUR_MS, bytes(range(32)), 1, codec.ZERO_HASH, codec.commit(salt, encoded), 0
    )
    forge.leaves.append(codec.encode_event(event))
    forge.openings.append(salt + encoded)
    found = add_up(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [index for index, _ in found.skewed] == [forge.size - 1]
    assert "differs" in render(found, made_s=0)
