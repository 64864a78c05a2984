"""What an auditor looks for after an erasure: no file of the daemon has anything of the person.

The secrets of two persons are read before. One is erased by a daemon that is killed as soon as it has answered. Every
byte of every file is searched, as it is, in hexadecimal and in base64. The other person shows that the search finds.
Stores do not compress here: a search of compressed blocks would miss what they have.
"""

import base64
import os
import sys
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, make_config, make_running, question
from cases.erasures import AUTHORITY, add_authority, holds, order, uncompressed
from cases.fakes import HANG_S
from cases.processes import PROGRAM, DaemonProcess
from cases.services import Person, services
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.ledger import layout, reads
from consentd.store import rocks
from consentd.v1 import registry_service_pb2_grpc
from consentd_client import Client


class Secrets:
    """What was stored of a person, by name: as it is in files, and what only whoever has the keys could make of it.

    Attributes:
        stored: bytes that files had before the erasure.
        opened: keys, salts and statements in the clear, which no file ever has.
    """

    def __init__(self, running: Running, person: Person) -> None:
        used = services(running)
        vault, tag = used.vault, person.tag
        hashed = vault.identifier_hash(person.subject.scheme, person.subject.value)
        wrapped = vault.store.get(b"k" + tag)
        assert wrapped is not None
        self.stored = {"identifier hash": hashed, "wrapped key": wrapped, "public key": person.key.public_key}
        self.opened = {"identifier": person.subject.value.encode(), "data key": vault._read_key(b"k" + tag) or b""}
        with used.table.read() as snapshot:
            value = snapshot.subject(tag) or b""
        start = value.index(person.key.public_key.hex()[:24].encode())
        self.stored["consents"] = value[start : start + 24]
        for entry in reads.read_chain(used.ledger.store, tag, 1):
            opened = reads.open_entry(vault, entry)
            assert entry.row is not None
            assert opened is not None
            self.stored[f"ciphertext {entry.event.seq}"] = entry.row[13:]
            self.opened[f"salt {entry.event.seq}"] = opened[0]
            self.opened[f"signature {entry.event.seq}"] = codec.decode_statement(opened[1]).signature
        requests = {row for _, row in used.ledger.store.scan(b"q", b"r") if self._is_of(used.ledger.store, row, tag)}
        self.stored |= {f"content of request {number}": row[16:] for number, row in enumerate(sorted(requests))}
        assert len(requests) == 4  # of the enrolment, two consents and an access
        assert all(len(one) >= 10 for one in (*self.stored.values(), *self.opened.values()))

    @staticmethod
    def _is_of(store: object, row: bytes, tag: bytes) -> bool:
        leaf = store.get(layout.leaf_key(layout.REQUEST.unpack(row)[0]))  # type: ignore[attr-defined]
        return leaf[10:42] == tag  # type: ignore[no-any-return]


PLAIN = """
from consentd.store import rocks
from cases.erasures import uncompressed
rocks._open_arguments = uncompressed(rocks)
"""
"""Before ``PROGRAM``: the daemon of that process does not compress."""
World = tuple[Running, dict[str, Person], dict[str, Secrets]]


def found(directory: Path, needles: dict[str, bytes], *, more: str = "") -> set[str]:
    """Return the names of those needles of which a file has a part of 16 bytes, in any of three forms."""
    contents = [path.read_bytes() for path in directory.rglob("*") if path.is_file()] + [more.encode()]
    assert len(contents) > 10
    hits = set()
    for name, needle in needles.items():
        middle = max(0, len(needle) // 2 - 8)
        for part in {needle[:16], needle[-16:], needle[middle : middle + 16]}:
            forms = [part, part.hex().encode(), part.hex().upper().encode()]
            forms += [base64.b64encode(part[at:])[2:-4] for at in range(3)]
            forms += [base64.urlsafe_b64encode(part[at:])[2:-4] for at in range(3)]
            if any(form in content for form in forms for content in contents):
                hits.add(name)
    return hits


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rocks, "_open_arguments", uncompressed(rocks))
    running = make_running(tmp_path, retention_days=30)
    add_authority(running)
    people = {name: Person(running, KeyPair(os.urandom(32))) for name in ("gone", "stays")}
    for person in people.values():
        running.grant(person.subject)
        running.grant(person.subject, resources=[f"Observation/{person.key.public_key.hex()[:24]}"])
        running.authorize(question(person.subject))
    return running, people, {name: Secrets(running, person) for name, person in people.items()}


def erase_and_kill(tmp_path: Path, running: Running, request: object) -> str:
    """Erase a person in a process of its own, which is killed once it has answered; return its log."""
    process = DaemonProcess(tmp_path, command=[sys.executable, "-c", PLAIN + PROGRAM, str(tmp_path)])
    with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        stub.EraseSubject(request, metadata=running.as_(AUTHORITY), timeout=HANG_S)
        process.kill()
    return "".join(process.lines)


def test_no_file_has_anything_of_the_person(tmp_path: Path, world: World) -> None:
    running, people, secrets = world
    request = order(running, people["gone"].subject)
    assert holds(running, people["stays"].subject).tag == people["stays"].tag
    for one in secrets.values():
        assert found(tmp_path, one.stored) == set(one.stored)
        assert not found(tmp_path, one.opened)
    running.stop()
    log = erase_and_kill(tmp_path, running, request)
    assert found(tmp_path, secrets["gone"].stored, more=log) == set()
    assert found(tmp_path, secrets["gone"].opened, more=log) == set()
    assert found(tmp_path, secrets["stays"].stored) == set(secrets["stays"].stored)

    again = Running(make_config(tmp_path, retention_days=30), running.tokens)
    try:
        assert again.check(question(people["stays"].subject)).permitted
        assert not again.check(question(people["gone"].subject)).permitted
        again.check_ledger()
        assert found(tmp_path, {**secrets["gone"].stored, **secrets["gone"].opened}) == set()
        client = Client("", token=again.tokens["operator"], channel=again.channel, timeout_s=HANG_S)
        client.prune()
    finally:
        again.stop()
    assert found(tmp_path, {**secrets["gone"].stored, **secrets["gone"].opened}) == set()
    assert {"identifier hash", "wrapped key"} <= found(tmp_path, secrets["stays"].stored)
