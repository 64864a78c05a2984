"""Keys of a ledger that were replaced: readers follow from old pins and new ones, and forged rotations are refused."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.reference_rotation import verify as reference
from cases.rotated_ledgers import (
    DAEMONS,
    LOGS,
    ORIGIN,
    POLICY,
    WITNESS,
    Rotated,
    one_log,
    one_statement,
    rotation,
    story,
)
from cases.vectors_case import Vector, b64, verdict
from cases.vectors_evidence import is_text, locations
from cases.vectors_files import set_at
from cases.vectors_rotations import VKEYS, rotations, to_document, two_at_once
from consentd.audit.evidence import make_evidence
from consentd.audit.sources import ExportDirectory
from consentd.audit.verify import verify_ledger
from consentd.core import checkpoint, note
from consentd.core.evidence import Scope, format_evidence, parse_evidence
from consentd.core.history import HistoryProof
from consentd.core.key_validity import KeyChange, apply_key_change
from consentd.core.kinds import Owner
from consentd.core.quorum import parse_policy
from consentd.core.rotation import RotationRole
from consentd.errors import ProofError, UnknownKeyError, VerificationError
from consentd.statements.evidence import verify_evidence
from consentd.v1 import ledger_service_pb2 as ls
from consentd.verify.findings import Report
from consentd_client import pin
from consentd_client.history import collect_proof, open_remembered, verify_history

LOG, STATEMENT = RotationRole.LOG, RotationRole.STATEMENT
FLIPS = int(os.environ.get("CONSENTD_ROTATION_FLIPS", "600"))
"""How many bits of files are flipped, one after the other."""
WITNESS_VKEY = note.format_vkey(WITNESS.verifier)


@pytest.fixture(scope="module")
def vectors() -> list[Vector]:
    return list(rotations())


def test_each_vector_comes_to_its_verdict(vectors: list[Vector]) -> None:
    apart = [(one.name, one.want, verdict(one)) for one in vectors if verdict(one) != one.want]
    assert apart == []
    wants = Counter(one.want for one in vectors)
    assert wants["ok"] >= 55
    assert wants.keys() == {"ok", "malformed", "signature", "proof", "unknown_key", "undetermined"}
    assert sum(wants.values()) - wants["ok"] >= 150
    assert len({one.name for one in vectors if one.kind == "evidence"}) == wants.total() - sum(
        one.kind == "history" for one in vectors
    )


def ours(content: bytes, log: int | str, witness: str = "") -> tuple[str, list[str]]:
    """Return our verdict in the words of the reference, and the log keys that were followed."""
    vkey = VKEYS[log] if isinstance(log, int) else log
    policy = parse_policy(POLICY) if witness else None
    try:
        found = verify_evidence(
            parse_evidence(content), origin=ORIGIN, log_verifier=note.parse_vkey(vkey), policy=policy
        )
    except UnknownKeyError:
        return "unknown_key", []
    except VerificationError:
        return "refused", []
    return "undetermined" if found.unknown else "ok", [one.vkey for one in found.log_keys] or [vkey]


def test_the_plain_reference_agrees_on_the_vectors(vectors: list[Vector]) -> None:
    files = [one for one in vectors if one.kind == "evidence"]
    for one in files:
        vkey, witness = one.under["log_key"], WITNESS_VKEY if "policy" in one.under else ""
        said = reference(one.content, origin=ORIGIN, vkey=vkey, witness=witness)
        assert said == ours(one.content, vkey, witness), one.name
    assert len(files) >= 200


def test_no_flipped_bit_leads_to_another_key() -> None:
    """Flip bits of every part of a file, and of the file itself. Ours and the reference must come to the same."""
    told, rng, said = story(), random.Random(7), Counter[str]()
    document = to_document(told.ledger, told.last, *told.steps)
    places = [
        (place, note.decode_base64(value))
        for place, value in locations(document)
        if isinstance(value, str) and value and not is_text(place)
    ]
    content = json.dumps(document).encode()
    for number in range(FLIPS):
        log, witness = number % 3, WITNESS_VKEY if number % 2 else ""
        if number % 10:
            place, original = places[rng.randrange(len(places))]
            flipped = bytearray(original)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            changed = json.dumps(set_at(document, place, b64(bytes(flipped)))).encode()
        else:
            at = rng.randrange(len(content))
            changed = content[:at] + bytes((content[at] ^ 1 << rng.randrange(8),)) + content[at + 1 :]
        found, keys = ours(changed, log, witness)
        assert (found, keys) == reference(changed, origin=ORIGIN, vkey=VKEYS[log], witness=witness)
        if found == "ok":
            assert keys == VKEYS[log:3]
        said[found] += 1
    assert said["refused"] > FLIPS // 3
    assert said["ok"] > FLIPS // 20  # among them what comes before the pin


# -- all leaves ---------------------------------------------------------------------------------------------------


def export(made: Rotated, directory: Path, size: int = 0) -> ExportDirectory:
    """Write the ledger as files, with the checkpoint that the key in force signed; *size*: up to this size."""
    part = made.fork()
    size = size or made.size
    part.forge.leaves, part.forge.openings = made.forge.leaves[:size], made.forge.openings[:size]
    location = part.forge.write(directory / "log", directory / "openings")
    (directory / "log" / "checkpoint").write_bytes(made.notes[size])
    return location


def audit(made: Rotated, directory: Path, log: int, **options: Any) -> Report:
    return verify_ledger(
        export(made, directory, options.pop("size", 0)), origin=ORIGIN, log_verifier=LOGS[log].verifier, **options
    )


def test_an_auditor_of_all_leaves_follows_the_ledger(tmp_path: Path) -> None:
    told = story()
    report = audit(told.ledger, tmp_path, 2)
    assert (report.faults, report.is_undetermined) == ((), False)
    assert [one.vkey for one in report.log_keys] == VKEYS[:3]
    assert [one.from_size for one in report.log_keys] == [0, told.steps[0] + 1, told.steps[1] + 1]
    assert [key for key, _ in report.statement_keys] == [one.public_key for one in DAEMONS[:2]]
    with pytest.raises(UnknownKeyError):
        audit(told.ledger, tmp_path, 0)


def test_an_audit_goes_on_over_rotations_from_its_state(tmp_path: Path) -> None:
    told = story()
    for size in told.ledger.notes:
        log = sum(size > step for step in told.steps)
        report = audit(told.ledger, tmp_path, log, size=size, state_path=tmp_path / "state", save_every=1)
        assert report.faults == (), size
    assert [one.vkey for one in report.log_keys] == VKEYS[:3]
    assert len(report.statement_keys) == 2


def state(message: Callable[[int], Any], *, log: int, then: int = 0, **beside: Any) -> Rotated:
    """Return a ledger with one rotation, and an entry after it by statement key *then*; signed by log key *log*."""
    made = Rotated().begin()
    made.state(message(made.size), **beside)
    made.ask(key=DAEMONS[then])
    made.ask(key=DAEMONS[then])
    made.seal(LOGS[log])
    return made


def same_millisecond() -> Rotated:
    made = Rotated().begin()
    made.rotate_statement()
    made.ask(key=DAEMONS[0], time_ms=made.forge.time_ms)
    made.seal()
    return made


OLD, NEW, FIRST, SECOND = LOGS[0].key, LOGS[1].key, *DAEMONS[:2]


@pytest.mark.parametrize(
    ("made", "log"),
    [
        (lambda: state(lambda n: rotation(LOG, OLD, NEW, n + 2), log=1), 1),
        (lambda: state(lambda n: rotation(LOG, OLD, NEW, n + 3), log=0), 0),
        (lambda: state(lambda n: rotation(LOG, OLD, NEW, n + 99), log=1), 1),
        (lambda: state(lambda n: rotation(LOG, OLD, NEW, n + 3, signer=OLD), log=1), 1),
        (lambda: state(lambda n: rotation(LOG, OLD, NEW, n + 3), log=1, map_bits=8), 1),
        (lambda: state(lambda n: rotation(LOG, LOGS[2].key, NEW, n + 3), log=1), 1),
        (lambda: state(lambda n: rotation(LOG, OLD, FIRST, n + 3), log=0), 0),
        (lambda: state(lambda n: rotation(STATEMENT, FIRST, SECOND, n), log=0, then=1), 0),
        (lambda: state(lambda n: rotation(STATEMENT, FIRST, SECOND, n + 2), log=0, then=1), 0),
        (lambda: state(lambda n: rotation(STATEMENT, FIRST, SECOND, n + 1), log=0, then=0), 0),
        (lambda: state(lambda n: rotation(STATEMENT, FIRST, SECOND, n + 1, signer=FIRST), log=0, then=1), 0),
        (same_millisecond, 0),
    ],
)  # fmt: skip
def test_an_auditor_of_all_leaves_finds_a_forged_rotation(tmp_path: Path, made: Any, log: int) -> None:
    assert audit(made(), tmp_path, log).faults


def test_an_auditor_does_not_judge_a_rotation_of_a_later_version(tmp_path: Path) -> None:
    made = Rotated().begin()
    made.state({**rotation(STATEMENT, FIRST, SECOND, made.size + 1), "role": 3})
    made.ask(key=SECOND)
    made.seal()
    report = audit(made, tmp_path, 0)
    assert (report.faults, report.is_undetermined) == ((), True)


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def run() -> CommandLine:
    return CommandLine()


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


FILES: list[tuple[str, int, Callable[[], Any]]] = [
    ("followed from the first key", 0, lambda: (0, whole())),
    ("followed from the second key", 0, lambda: (1, whole())),
    ("the last key pinned", 0, lambda: (2, whole())),
    ("two rotations in one checkpoint", 0, lambda: (0, at_once())),
    ("the statement key", 0, lambda: (0, to_document(*one_statement()))),
    ("no rotations", 2, lambda: (0, whole(without=True))),
    ("a gap", 2, lambda: (0, {**whole(), "rotations": whole()["rotations"][1:]})),
    ("a role of a later version", 2, lambda: (0, of_role(3))),
    ("not its form", 2, lambda: (0, {**whole(), "rotations": [{}]})),
    ("order swapped", 1, lambda: (0, {**whole(), "rotations": whole()["rotations"][::-1]})),
    ("consistency cut", 1, lambda: (0, set_at(whole(), ("rotations", 1, "consistency"), []))),
    ("signed by the old key alone", 1, lambda: (0, signed_by(OLD))),
]


def whole(*, without: bool = False) -> Any:
    told = story()
    return to_document(told.ledger, told.last, *(() if without else told.steps))


def at_once() -> Any:
    made, step, last = two_at_once()
    return to_document(made, last, step)


def of_role(role: int) -> Any:
    made = Rotated().begin()
    made.state({**rotation(STATEMENT, FIRST, SECOND, made.size + 1), "role": role})
    return to_document(made, made.seal())


def signed_by(signer: Any) -> Any:
    made = Rotated().begin()
    made.state(rotation(LOG, OLD, NEW, made.size + 3, signer=signer))
    step = made.seal()
    made.ask()
    return to_document(made, made.seal(LOGS[1]), step)


@pytest.mark.parametrize(("name", "status", "made"), FILES)
def test_files_at_the_command_line(run: CommandLine, tmp_path: Path, name: str, status: int, made: Any) -> None:
    log, document = made()
    path = write(tmp_path / "file.json", document)
    for verb in (("audit", "check-evidence", path), ("history", "--from", path)):
        said = run(*verb, "--log-key", VKEYS[log], "--json", "--lang", "en")
        assert said.status == status, (name, said.err)
        if status == 0 and document["rotations"] and log < 2:
            answer = said.objects[-1]
            assert [one["vkey"] for one in answer["log_keys"]] == VKEYS[log:3]
            assert answer["log_keys"][0]["from_size"] == 0
            assert "pin the last one" in said.err
        if name in ("no rotations", "a gap"):
            assert "pin the new one" in said.err
    korean = run("audit", "check-evidence", path, "--log-key", VKEYS[log], "--lang", "ko")
    assert ("로그 키 교체" in korean.err) == (status == 0 and bool(document["rotations"]) and log < 2)


def test_verify_follows_a_file_of_rotations_in_both_directions(run: CommandLine, tmp_path: Path) -> None:
    told = story()
    path = write(tmp_path / "history.json", whole())
    for size, content in told.ledger.notes.items():
        point = tmp_path / "checkpoint"
        point.write_bytes(content)
        signer = sum(size > step for step in told.steps)
        for log in range(3):
            said = run("verify", point, "--log-key", VKEYS[log], "--rotations", path, "--json")
            assert (said.status, said.object["size"]) == (0, size)
            assert [one["vkey"] for one in said.object["log_keys"]] == VKEYS[:3]
            alone = run("verify", point, "--log-key", VKEYS[log], "--json")
            assert alone.status == (0 if log == signer else 2)
    bad = write(tmp_path / "bad.json", set_at(whole(), ("rotations", 1, "consistency"), []))
    assert run("verify", point, "--log-key", VKEYS[0], "--rotations", bad).status == 1
    no_file = write(tmp_path / "none.json", {})
    assert run("verify", point, "--log-key", VKEYS[0], "--rotations", no_file).status == 2


def test_audit_verify_says_what_was_replaced(run: CommandLine, tmp_path: Path) -> None:
    export(story().ledger, tmp_path)
    verb = ("audit", "verify", tmp_path / "log", "--statements", tmp_path / "openings", "--jobs", 1, "--lang", "ko")
    said = run(*verb, "--log-key", VKEYS[2], "--json")
    assert said.status == 0, said.err
    assert [one["vkey"] for one in said.objects[-1]["log_keys"]] == VKEYS[:3]
    assert [one["key"] for one in said.objects[-1]["statement_keys"]] == [one.public_key.hex() for one in DAEMONS[:2]]
    assert "진술 키 교체" in said.err
    old = run(*verb, "--log-key", VKEYS[0])
    assert (old.status, "pin the new one" in old.err) == (2, True)


# -- programs that keep what they verified ------------------------------------------------------------------------


def streamed(proof: HistoryProof) -> Iterator[ls.GetHistoryResponse]:
    """Yield a proof as the messages of ``GetHistory``."""

    def entries(chain: Any) -> list[ls.LedgerEntry]:
        return [
            ls.LedgerEntry(leaf=one.leaf, opening=ls.Opening(salt=one.opening[0], statement=one.opening[1]))
            for one in chain.entries
        ]

    def header(chain: Any) -> ls.HistoryChain:
        return ls.HistoryChain(
            tag=chain.tag, public_name=chain.public_name, count=chain.count, head=chain.head,
            map_proof=chain.map_proof, first_seq=chain.first_seq,
        )  # fmt: skip

    steps = [
        ls.HistoryRotation(
            checkpoint=one.checkpoint, seal=one.seal, seal_inclusion=one.seal_inclusion, chain=header(one.history),
            entries=entries(one.history), consistency=one.consistency,
        )
        for one in proof.rotations
    ]  # fmt: skip
    yield ls.GetHistoryResponse(head=ls.HistoryHead(
        checkpoint=proof.checkpoint, consistency=proof.consistency, seal=proof.seal,
        seal_inclusion=proof.seal_inclusion, rotations=steps,
    ))  # fmt: skip
    for chain in proof.chains:
        yield ls.GetHistoryResponse(chain=header(chain))
        yield ls.GetHistoryResponse(entries=ls.HistoryEntries(entries=entries(chain)))


def test_a_client_follows_what_a_daemon_streams() -> None:
    told = story()
    proof = told.ledger.evidence(told.last, told.steps).proof
    read = collect_proof(streamed(proof))
    assert read == proof
    for log in range(3):
        history, memory = verify_history(read, trust=pin(VKEYS[log]))
        assert [one.vkey for one in history.log_keys] == (VKEYS[log:3] if log < 2 else [])
        # The remembered checkpoint is by a later key than the pinned one, and the next reading continues it.
        remembered = open_remembered(proof.checkpoint, pin(VKEYS[log]))
        assert remembered == history.checkpoint
        again = replace(read, chains=(
            replace(read.chains[0], entries=(), first_seq=read.chains[0].count + 1), *read.chains[1:],
        ))  # fmt: skip
        verify_history(again, trust=pin(VKEYS[log]), remembered_checkpoint=remembered, remembered=memory)
    with pytest.raises(UnknownKeyError):
        verify_history(replace(read, rotations=()), trust=pin(VKEYS[0]))


def test_what_a_program_kept_is_opened_under_another_key_of_the_log() -> None:
    made, step, last = one_log()
    for size, log in ((step, 1), (last, 0), (step, 0), (last, 1)):
        assert checkpoint.open_own(made.notes[size], ORIGIN, LOGS[log].verifier).size == size
    other = note.Signer("ledger.example/other", NEW)
    moved = checkpoint.sign_checkpoint(checkpoint.Checkpoint(other.name, 5, bytes(32)), [other, LOGS[0]])
    with pytest.raises(ProofError):
        checkpoint.open_own(moved, ORIGIN, LOGS[1].verifier)


def test_a_replaced_key_is_valid_until_its_rotation() -> None:
    keys: dict[bytes, Any] = {}
    daemon = {"owner": Owner.LEDGER, "tag_or_name": ""}
    apply_key_change(keys, KeyChange(key=b"a", time_ms=1, **daemon))
    apply_key_change(keys, KeyChange(key=b"b", time_ms=5, replaces=b"a", **daemon))
    assert [(one.from_ms, one.until_ms) for one in keys[b"a"]] == [(1, 5)]
    assert keys[b"b"][0].from_ms == 5


def test_evidence_with_rotations_is_written_as_it_is_read() -> None:
    told = story()
    made = told.ledger.evidence(told.last, told.steps)
    assert parse_evidence(format_evidence(made)) == made


def test_evidence_of_an_export_has_the_chain_that_states_the_new_statement_key(tmp_path: Path) -> None:
    """What only the new statement key signed still needs chain `ledger`, which states that key."""
    made, size = one_statement()
    path = tmp_path / "evidence.json"
    scope = Scope(first=size - 2, last=size - 2)
    make_evidence(export(made, tmp_path), path, scope, origin=ORIGIN, log_verifier=LOGS[0].verifier)
    found = verify_evidence(parse_evidence(path.read_bytes()), origin=ORIGIN, log_verifier=LOGS[0].verifier)
    assert (len(found.histories.chains), found.unproven, found.unknown) == (1, 0, 0)
