"""A client that pins the log's ML-DSA-44 key beside that of Ed25519: both must have signed whatever it believes."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, ROLES, Running, consent, make_config, make_running
from consentd.core import checkpoint, ed25519, note
from consentd.cosigning import mldsa
from consentd.cosigning.keyfiles import read_mldsa_key, read_signing_key, write_private
from consentd.errors import MalformedError, ProofError, SignatureError
from consentd.server.keys import make_keys
from consentd.service.auth import format_credential, make_token
from consentd_client import Client, Trust, pin

LOG = note.Signer(ORIGIN, ed25519.KeyPair(b"\1" * 32))
LOG_MLDSA = mldsa.MldsaSigner(ORIGIN, b"\2" * 32)
VKEY, MLDSA_VKEY = note.format_vkey(LOG.verifier), mldsa.format_mldsa_vkey(LOG_MLDSA.verifier)
POINT = checkpoint.Checkpoint(ORIGIN, 9, b"\3" * 32)
TEXT = checkpoint.format_checkpoint(POINT)


def both(**options: Any) -> Trust:
    return pin(VKEY, also=[MLDSA_VKEY], parse_mldsa=mldsa.parse_mldsa_vkey, **options)


def signed(*lines: note.NoteSignature) -> bytes:
    return note.format_note(TEXT, lines)


# -- what is pinned ---------------------------------------------------------------------------------------------


def test_a_key_that_is_pinned_must_have_signed() -> None:
    trust = both()
    assert trust.also == (LOG_MLDSA.verifier,)
    trust.verify_witnessed(signed(LOG.sign(TEXT), LOG_MLDSA.sign(TEXT)), now_ms=0)
    trust.verify_witnessed(signed(LOG_MLDSA.sign(TEXT), LOG.sign(TEXT)), now_ms=None)
    stranger = mldsa.MldsaSigner(ORIGIN, b"\4" * 32)
    line = LOG_MLDSA.sign(TEXT)
    other_text = checkpoint.format_checkpoint(replace(POINT, size=10))
    for wrong in (
        (),
        (stranger.sign(TEXT),),
        (replace(stranger.sign(TEXT), key_id=line.key_id),),
        (LOG_MLDSA.sign(other_text),),
        (replace(line, signature=line.signature[:-1]),),
        (replace(line, signature=line.signature[:-1] + bytes((line.signature[-1] ^ 1,))),),
        (line, replace(stranger.sign(TEXT), key_id=line.key_id)),  # one right, one wrong
    ):
        content = signed(LOG.sign(TEXT), *wrong)
        checkpoint.open_checkpoint(content, ORIGIN, LOG.verifier)
        with pytest.raises(SignatureError):
            trust.verify_witnessed(content, now_ms=None)
    with pytest.raises(ProofError):
        replace(trust, origin="another.example").verify_witnessed(
            signed(LOG.sign(TEXT), LOG_MLDSA.sign(TEXT)), now_ms=None
        )


def test_one_that_is_not_pinned_is_passed_over() -> None:
    wrong = replace(LOG_MLDSA.sign(TEXT), signature=bytes(2428))
    pin(VKEY).verify_witnessed(signed(LOG.sign(TEXT), wrong), now_ms=None)


def test_without_the_code_such_a_key_cannot_be_pinned_by_mistake() -> None:
    with pytest.raises(MalformedError):
        pin(VKEY, also=[MLDSA_VKEY])
    with pytest.raises(MalformedError):
        pin(MLDSA_VKEY)
    assert pin(VKEY, also=[LOG_MLDSA.verifier]) == both()
    assert pin(MLDSA_VKEY, parse_mldsa=mldsa.parse_mldsa_vkey).log_key == LOG_MLDSA.verifier


def test_a_witness_of_a_policy_may_have_such_a_key() -> None:
    witness = mldsa.MldsaSigner("witness.example", b"\5" * 32)
    policy = f"witness w {mldsa.format_mldsa_vkey(witness.verifier)}\nquorum w\n".encode()
    content = signed(LOG.sign(TEXT), LOG_MLDSA.sign(TEXT), witness.cosign(TEXT, 100))
    both(policy=policy).verify_witnessed(content, now_ms=100_000)
    with pytest.raises(SignatureError):
        both(policy=policy).verify_witnessed(content, now_ms=401_000)
    with pytest.raises(SignatureError):
        pin(VKEY, policy=policy).verify_witnessed(content, now_ms=100_000)


# -- a real daemon ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon that signs with both."""
    directory = tmp_path_factory.mktemp("both")
    config = make_config(directory, checkpoint_interval_ms=20)
    config = replace(config, keys=replace(config.keys, log_mldsa_key_file=directory / "keys/mldsa.key"))
    tokens = {"operator": make_keys(config)}
    for name in ROLES:
        tokens[name] = make_token()
        write_private(config.callers.credentials_file, format_credential(tokens[name], name), append=True)
    running = Running(config, tokens)
    running.register()
    running.grant(running.enrol("SYN-1"))
    yield running
    running.stop()


def pinned(running: Running, **more: Any) -> Trust:
    return pin(read_signing_key(running.config.keys.log_key_file).verifier, **more)


def client(running: Running, trust: Trust) -> Client:
    return Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["app"], trust=trust)


def test_everything_is_read_with_both_keys_pinned(running: Running) -> None:
    path = running.config.keys.log_mldsa_key_file
    assert path is not None
    running.check_ledger()
    with client(running, pinned(running, also=[read_mldsa_key(path).verifier])) as reader:
        assert reader.get_checkpoint().size > 2
        person = running.enrol("SYN-2")
        assert reader.grant(person, consent(), published=True).receipt.checkpoint is not None
        assert [entry.kind_name for entry in reader.history(person).entries] == ["ENROL", "GRANT"]
        assert reader.public_history("ledger").entries


def test_a_daemon_that_lacks_a_pinned_key_is_not_believed(running: Running, tmp_path: Path) -> None:
    running.check_ledger()
    plain = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        for served in (plain, running):  # one has no such key, the other another one
            known, fresh = served.enrol("SYN-3"), served.enrol("SYN-4")
            served.grant(known)
            served.check_ledger()
            with client(served, pinned(served, also=[LOG_MLDSA.verifier])) as reader:
                for read in (
                    reader.get_checkpoint,
                    partial(reader.public_history, "ledger"),
                    partial(reader.history, known),
                    partial(reader.grant, fresh, consent(), published=True),
                ):
                    with pytest.raises(SignatureError):
                        read()
    finally:
        plain.stop()


def test_the_command_line_takes_both(running: Running, tmp_path: Path) -> None:
    path = running.config.keys.log_mldsa_key_file
    assert path is not None
    running.check_ledger()
    run = CommandLine({"CONSENTD_TOKEN": running.tokens["app"]})
    first = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    second = mldsa.format_mldsa_vkey(read_mldsa_key(path).verifier)
    pins = tmp_path / "log.pub"
    asked = ["checkpoint", "--target", f"127.0.0.1:{running.daemon.grpc_port}", "--log-key", str(pins)]
    for lines, status, message in (
        (f"{first}\n{second}\n", 0, ""),
        (f"{first}\n", 0, ""),
        (f"{first}\n{MLDSA_VKEY}\n", 1, "disproved: "),
        (f"{second}\n{first}\n", 2, "error: log key is not a C2SP verifier key"),
        (f"{first}\n{second[:-2]}\n", 2, "error: log key is not a C2SP verifier key"),
        ("", 2, "error: log key file is empty"),
    ):
        pins.write_text(lines)
        found = run(*asked)
        assert (found.status, found.err.startswith(message)) == (status, True)
    # A verb that would pass over the second key says so.
    pins.write_text(f"{first}\n{second}\n")
    found = run("audit", "verify", tmp_path, "--log-key", pins)
    assert (found.status, "more than one key" in found.err) == (2, True)
