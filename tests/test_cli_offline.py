"""The command line without a daemon: evidence verified offline, and what holds for every verb."""

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from cases.command_lines import ROOT, TOML, CommandLine, consentd
from cases.vectors_case import TRUST, encode
from cases.vectors_pruned import KEPT_FROM_MS, OLD, ledger, pruning, shown
from consentd import cli
from consentd.cli.out import Out, counted
from consentd.core import checkpoint, codec, merkle, note
from consentd.core.kinds import EntryKind
from consentd_client import KeyPair


@pytest.fixture
def run() -> CommandLine:
    """Run a verb in this process, with no environment but what a test sets."""
    return CommandLine()


# -- offline --------------------------------------------------------------------------------------------------

LOG = note.Signer("consent.test/offline", KeyPair(b"\x43" * 32))
KEY = note.format_vkey(LOG.verifier)


def evidence(leaf: bytes, *, size: int = 2) -> tuple[bytes, bytes]:
    """Return (proof, checkpoint) of a tree whose first leaf is *leaf*."""
    other = merkle.leaf_hash(b"other")
    root = merkle.node_hash(merkle.leaf_hash(leaf), other)
    signed = checkpoint.sign_checkpoint(checkpoint.Checkpoint(LOG.name, size, root), [LOG])
    return checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, (other,), signed)), signed


def event(kind: int, time_ms: int = 1_760_000_000_000) -> bytes:
    return codec.encode_event(codec.Event(kind, time_ms, b"\x01" * 32, 1, codec.ZERO_HASH, b"\x02" * 32, 0))


def test_verify_proves_and_disproves(run: CommandLine, tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    proof, signed = evidence(leaf)
    file = tmp_path / "grant.tlog-proof"
    file.write_bytes(proof)
    good = run("verify", file, "--leaf", leaf.hex(), "--log-key", KEY)
    assert (good.status, good.err) == (0, "")
    assert good.out == (
        "proven: entry 0 of `consent.test/offline` in its tree of 2, GRANT, seq 1 of its chain, "
        "2025-10-09 17:53:20 KST\n"
    )
    (tmp_path / "leaf").write_bytes(leaf)
    (tmp_path / "leaf.hex").write_text(leaf.hex() + "\n")
    (tmp_path / "log.vkey").write_text(KEY + "\n")
    for given in ("leaf", "leaf.hex"):
        assert run("verify", file, "--leaf", tmp_path / given, "--log-key", tmp_path / "log.vkey").status == 0
    assert run("verify", "-", "--leaf", leaf.hex(), "--log-key", KEY, stdin=proof.decode()).status == 0
    point = tmp_path / "checkpoint"
    point.write_bytes(signed)
    shown = run("verify", point, "--log-key", KEY, "--json").object
    assert (shown["verdict"], shown["what"], shown["size"]) == ("proven", "checkpoint", 2)
    assert run("verify", point, "--log-key", KEY, "--lang", "ko").out.startswith("증명됨")
    other = note.format_vkey(note.Signer(LOG.name, KeyPair(b"\x44" * 32)).verifier)
    (tmp_path / "half").write_bytes(proof[: len(proof) // 2])
    (tmp_path / "empty").write_bytes(b"")
    for status, argv in (
        (1, (file, "--leaf", event(EntryKind.REVOKE).hex(), "--log-key", KEY)),
        (2, (file, "--leaf", leaf.hex(), "--log-key", other)),  # the log may have replaced its key
        (1, (file, "--leaf", leaf.hex(), "--log-key", KEY, "--origin", "another")),
        (2, (tmp_path / "leaf.hex", "--log-key", KEY)),  # a file of another kind
        (2, (tmp_path / "half", "--leaf", leaf.hex(), "--log-key", KEY)),
        (2, (tmp_path / "empty", "--leaf", leaf.hex(), "--log-key", KEY)),
        (2, (file, "--leaf", leaf.hex(), "--log-key", tmp_path / "empty")),
        (2, (file, "--log-key", KEY)),
        (2, (file, "--leaf", tmp_path / "none", "--log-key", KEY)),
        (2, (file, "--leaf", leaf.hex())),
        (2, (file, "--leaf", leaf.hex(), "--log-key", "no+key")),
        (2, (file, "--leaf", leaf.hex(), "--log-key", tmp_path / "none")),
        (2, (tmp_path / "none", "--log-key", KEY)),
    ):
        found = run("verify", *argv)
        assert (found.status, found.out) == (status, ""), argv
        assert found.err.startswith("disproved: " if status == 1 else ("error: ", "could not be determined: "))


def test_verify_asks_for_witnesses(run: CommandLine, tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    file, policy = tmp_path / "proof", tmp_path / "policy"
    file.write_bytes(evidence(leaf)[0])
    witness = note.Signer("w.test", KeyPair(b"\x46" * 32), note.COSIGNATURE)
    policy.write_text(f"witness w {note.format_vkey(witness.verifier)}\nquorum w\n")
    verb = ("verify", file, "--leaf", leaf.hex(), "--log-key", KEY, "--policy", policy)
    alone = run(*verb)
    assert (alone.status, "no quorum" in alone.err) == (1, True)
    bundle = checkpoint.parse_proof(file.read_bytes())
    opened = note.parse_note(bundle.checkpoint_note)
    cosigned = note.format_note(opened.text, [*opened.unverified, witness.cosign(opened.text, 1_760_000_000)])
    file.write_bytes(checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, bundle.proof, cosigned)))
    assert run(*verb).status == 0
    policy.write_text("quorum nobody\n")
    found = run(*verb)
    assert (found.status, "witness policy is malformed" in found.err) == (2, True)


def test_verify_reads_receipts(run: CommandLine, tmp_path: Path) -> None:
    leaf = event(EntryKind.ACCESS)
    proof, _ = evidence(leaf)
    stored = {"index": 0, "leaf": leaf.hex(), "proof": proof.decode(), "replayed": False}
    file = tmp_path / "a.receipt"
    for content, status in (
        (stored, 0),
        ({"receipt": stored}, 0),
        ({**stored, "leaf_hash": merkle.leaf_hash(leaf).hex()}, 0),
        ({**stored, "leaf": "", "leaf_hash": merkle.leaf_hash(leaf).hex()}, 0),  # reduced: of a refused access
        ({**stored, "leaf": "", "leaf_hash": "00" * 32}, 1),
        ({**stored, "leaf_hash": "00" * 32}, 1),
        ({**stored, "leaf": ""}, 1),
        ({**stored, "index": 1}, 1),
        ({**stored, "index": "0"}, 2),
        ({**stored, "leaf": event(EntryKind.GRANT).hex()}, 1),
        ({**stored, "leaf": "zz"}, 2),
        ({**stored, "proof": "x"}, 2),
        ({**stored, "proof": ""}, 2),
        ({}, 2),
    ):
        file.write_text(json.dumps(content))
        assert run("verify", file, "--log-key", KEY).status == status, content
    for content in ("{", json.dumps(stored)[:-9], ""):
        file.write_text(content)
        assert run("verify", file, "--log-key", KEY).status == 2


def test_verify_could_not_tell_what_a_later_version_says(run: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "proof"
    sealed = codec.encode_seal(codec.Seal(1, 3, b"\x01" * 32, 1, bytes(32)))
    far = event(EntryKind.GRANT, (1 << 64) - 1)
    for leaf, status, said in (
        (event(99), 2, "kind 99"), (b"\x02\x08 of a later version", 2, "version unknown"), (sealed, 0, "a seal over 3"),
        (far, 0, "18446744073709551615 ms"),
    ):  # fmt: skip
        file.write_bytes(evidence(leaf)[0])
        found = run("verify", file, "--leaf", leaf.hex(), "--log-key", KEY)
        assert (found.status, said in found.out) == (status, True)


def test_check_evidence_says_what_is_missing(run: CommandLine, tmp_path: Path) -> None:
    file, forge = tmp_path / "evidence.json", ledger(pruning())
    verb = ("audit", "check-evidence", file, "--log-key", TRUST["log_key"])
    file.write_bytes(encode(shown(forge)))
    whole = run(*verb)
    assert (whole.status, "pruned" in whole.err) == (0, False)
    assert "whole: chain of a person, 8 entries\n" in whole.err
    file.write_bytes(encode(shown(forge, OLD)))
    cut = run(*verb)
    assert cut.status == 0
    assert "not whole: chain of a person, 3 entries. Entries 1 to 5 were pruned" in cut.err
    assert "\nwhole: chain of ledger, 2 entries\n" in cut.err
    answer = json.loads(run(*verb, "--json").out)
    assert (answer["verdict"], answer["missing"]) == ("proven", {"a person": [[1, 5]]})
    assert answer["kept_from_ms"] == KEPT_FROM_MS


def test_verify_loads_neither_grpc_nor_protobuf(tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    (tmp_path / "proof").write_bytes(evidence(leaf)[0])
    program = (
        "import sys; from consentd.cli import main; "
        f"status = main(['verify', {str(tmp_path / 'proof')!r}, '--leaf', {leaf.hex()!r}, '--log-key', {KEY!r}]); "
        "heavy = {'grpc', 'google', 'consentd_client', 'rich', 'rocksdict', 'lmdb', 'cryptography'}; "
        "sys.exit(status or bool(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True).returncode == 0


# -- the command itself ---------------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield every verb, with those below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, verb in action.choices.items():
            yield from parsers(verb, *path, name)


VERBS = dict(parsers(cli.make_parser()))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb: tuple[str, ...], run: CommandLine) -> None:
    found = run(*verb, "--help")
    assert (found.status, found.err) == (0, "")
    assert VERBS[verb].description
    assert "--json" in found.out
    assert "--lang" in found.out
    undocumented = [action.dest for action in VERBS[verb]._actions if action.help is None]
    assert undocumented == []
    assert "\n    " not in str(VERBS[verb].description), "a docstring with the indentation of its source"


def test_an_error_of_the_arguments_says_where_they_are_explained(run: CommandLine) -> None:
    for verb, said in (((), "consentd --help"), (("key",), "consentd key --help"), (("key", "add"), "key add --help")):
        found = run(*verb)
        assert (found.status, found.out) == (2, "")
        assert f"{said}` explains" in found.err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["--token-file", "--id-token-file", "--subject-key", "--tls-ca"])
def test_a_write_whose_file_is_missing_was_not_sent(run: CommandLine, tmp_path: Path, missing: str) -> None:
    named = (missing, tmp_path / "none", "--log-key", KEY, "--tag", "11" * 32)
    found = run("grant", "mhid:1", "--recipient", "a", "--purpose", "TREAT", "--category", "CLIN", *named)
    assert (found.status, found.out) == (2, "")
    assert "cannot be read" in found.err
    assert "--request-id" not in found.err  # nothing is recorded, so there is nothing to repeat with its id


def test_the_table_of_roles_explains_its_lines(run: CommandLine) -> None:
    legend, _, table = run("roles").out.partition("\n\n")
    named = {line.strip().split("  ")[0].split(",")[0] for line in table.splitlines() if line.startswith("  ")}
    explained = {line.partition(":")[0] for line in legend.splitlines()}
    assert named - {name for name in named if name.startswith("r:")} <= explained


def test_the_verbs_a_newcomer_needs_are_there(run: CommandLine) -> None:
    top = run("--help").out
    for verb in ("serve", "keygen", "credential", "participants", "enrol", "grant", "check", "authorize", "record",
                 "history", "revoke", "verify", "fsck", "table", "import"):  # fmt: skip
        assert f"\n    {verb} " in top or f"\n    {verb}\n" in top
    assert "exit status" in top
    assert run("--version").out.startswith("consentd 0.")
    for bad in ((), ("nothing",), ("check", "mhid:1"), ("table",)):
        assert run(*bad).status == 2


def test_the_language_follows_the_environment(run: CommandLine, tmp_path: Path) -> None:
    point = tmp_path / "checkpoint"
    point.write_bytes(evidence(event(EntryKind.GRANT))[1])
    for language, said in (("ko_KR.UTF-8", "증명됨"), ("en_GB.UTF-8", "proven"), ("C", "proven")):
        assert run.given(LC_ALL=language)("verify", point, "--log-key", KEY).out.startswith(said)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    config = tmp_path / "consentd.toml"
    config.write_text(TOML)
    for part, verb, said in (
        ("consentd_client", ["vocabulary"], "pip install consentd-client"),
        ("rocksdict", ["fsck", "--config", str(config)], "pip install 'consentd[server]'"),
    ):
        program = f"import sys; sys.modules[{part!r}] = None; from consentd.cli import main; sys.exit(main({verb!r}))"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)
        assert (done.returncode, said in done.stderr) == (2, True)


def test_a_reader_that_had_enough_is_no_error(tmp_path: Path) -> None:
    shown = consentd("--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = shown.communicate(timeout=60)
    assert (shown.returncode, err) == (0, "")
    assert out.startswith("usage: consentd ")
    point = tmp_path / "checkpoint"
    point.write_bytes(evidence(event(EntryKind.GRANT))[1])
    reading, writing = os.pipe()
    os.close(reading)
    closed = consentd("verify", point, "--log-key", KEY, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = closed.communicate(timeout=60)
    assert (closed.returncode, err) == (2, "")


class Interrupted(io.BytesIO):
    """A file during whose reading the user interrupts the program."""

    def read(self, size: int | None = -1) -> bytes:
        raise KeyboardInterrupt


def test_an_interrupt_is_quiet(run: CommandLine) -> None:
    found = run("verify", "-", "--log-key", KEY, stdin=Interrupted())
    assert (found.status, found.err) == (130, "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_on_a_terminal_only() -> None:
    out = cli.Out(as_json=False, lang="en")
    for stream, shows in ((io.StringIO(), False), (Terminal(), True)):
        with redirect_stderr(stream), out.progress("rebuilding") as progress:
            progress(1, 2)
        assert ("rebuilding" in stream.getvalue()) == shows


def test_what_others_wrote_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(as_json=False, lang="en")
    out.answer("one\x1b[2J\x9b1m\u202e\n\ttwo")
    out.message("three\r\x07")
    Out(as_json=True, lang="en").answer("", said="\x1b")
    shown = capsys.readouterr()
    assert shown.out == 'one\\u001b[2J\\u009b1m\\u202e\n\ttwo\n{"said": "\\u001b"}\n'
    assert shown.err == "three\\u000d\\u0007\n"


@pytest.mark.parametrize("argv", [
    ("grant", "mhid:1", "--purpose", "TREAT", "--receipt"), ("key", "add", "clinic-b", "00" * 32, "--receipt"),
    ("history", "mhid:1", "--save"), ("receipt", "given.receipt", "--save"),
    ("subject", "erase", "mhid:1", "--key", "my.key", "--certificate"),
])  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused_before_the_call(
    run: CommandLine, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    for bad in (tmp_path / "none" / "file", tmp_path):
        refused = run(*argv, bad)
        assert (refused.status, "unknown" in refused.err) == (2, False)
        assert f"argument {argv[-1]}: " in refused.err


def test_help_begins_with_what_must_be_given() -> None:
    shown = consentd("check", "--help", stdout=subprocess.PIPE)
    usage = " ".join(shown.communicate(timeout=60)[0].split("\n\n")[0].split())
    assert usage == (
        "usage: consentd check [options] --actor ID --holder ID --purpose CODE --category CODE SCHEME:VALUE"
    )


def test_a_count_of_one_is_in_the_singular() -> None:
    assert [counted(count, "entries") for count in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]
    assert [counted(1, one) for one in ("faults", "leaves", "accesses")] == ["1 fault", "1 leaf", "1 access"]


def test_no_verb_writes_a_bare_number_before_a_plural() -> None:
    plural = re.compile(r'^\s+f?".*\{[^{}]+\} (?:faults|entries|statements|seals|leaves|persons|files|rows)\b')
    found = [
        f"{path.name}: {line.strip()}" for path in (ROOT / "consentd/cli").glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if plural.match(line) and "counted(" not in line and "if count == 1" not in line
    ]  # fmt: skip
    assert found == []
