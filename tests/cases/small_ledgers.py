"""A ledger in a list, which shows histories as a daemon would: a test changes them before a client reads them."""

from dataclasses import replace
from typing import Any

import grpc

from cases.clients import Answer, FakeRpcError, Stream, faking
from cases.daemons import consent
from cases.reference_tree import Naive
from consentd.core import bucketed, checkpoint, codec, note
from consentd.core.kinds import EntryKind
from consentd.statements import payloads
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client import (
    Client,
    KeyPair,
    RamMemory,
    Subject,
    Trust,
)

ORIGIN = "consent.test/small"
LOG = note.Signer(ORIGIN, KeyPair(b"\x11" * 32))
DAEMON, CLINIC, PERSON, STRANGER = (KeyPair(bytes([n]) * 32) for n in (0x12, 0x13, 0x14, 0x15))
TAG = b"\x77" * 32
LEDGER_TAG, CLINIC_TAG = codec.public_tag("ledger"), codec.public_tag("participant/clinic-b")
SMALL = Trust(ORIGIN, LOG.verifier)
SUBJECT = Subject(scheme="mhid", value="MH-1")


class Small:
    """A ledger in a list, which seals, signs and proves its entries as a daemon does."""

    def __init__(self, **stated: Any) -> None:
        self.leaves: list[bytes] = []
        self.chains: dict[bytes, list[ls.LedgerEntry]] = {}
        self.clock_ms: int | None = None  # None: a millisecond an entry
        self.cosigned: list[tuple[note.Signer, int]] = []  # who cosigns each checkpoint, and when
        log_key = note.format_vkey(LOG.verifier)
        fields = {"origin": ORIGIN, "verifier_keys": [log_key], "statement_key": DAEMON.public_key, **stated}
        self.add(EntryKind.LEDGER, LEDGER_TAG, st.LedgerStatement(**fields))

    def add(self, kind: int, tag: bytes, message: Any, *, key: KeyPair = DAEMON, origin: str = ORIGIN) -> None:
        chain = self.chains.setdefault(tag, [])
        time_ms, number = self.clock_ms or self.now_ms(), len(self.leaves)
        payload = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
        signed = codec.signed_message(
            origin=origin, kind=kind, tag=tag, ref=0, request_id=bytes(16), author_time_ms=time_ms, payload=payload
        )
        made = codec.encode_statement(codec.Statement(key.public_key, key.sign(signed), bytes(16), time_ms, payload))
        salt = number.to_bytes(32)
        prev = codec.chain_hash(chain[-1].leaf) if chain else codec.ZERO_HASH
        leaf = codec.encode_event(codec.Event(kind, time_ms, tag, len(chain) + 1, prev, codec.commit(salt, made), 0))
        self.leaves.append(leaf)
        chain.append(ls.LedgerEntry(index=number, leaf=leaf, opening=ls.Opening(salt=salt, statement=made)))

    def person(self, *messages: Any, key: KeyPair = DAEMON) -> "Small":
        for message in messages:
            (kind,) = (kind for kind, known in payloads.MESSAGES.items() if isinstance(message, known))
            self.add(kind, TAG, message, key=key)
        return self

    def seal(self) -> None:
        """Seal as a daemon does; *history* then proves against this seal."""
        self.top, self.buckets = bucketed.Top(1), {0: b"", 1: b""}
        for tag, chain in self.chains.items():
            map_key = codec.map_key(tag)
            number = bucketed.bucket_of(map_key, 1)
            value = codec.map_value(tag, len(chain), codec.chain_hash(chain[-1].leaf))
            self.buckets[number] = bucketed.bucket_update(self.buckets[number], {map_key: value})
        for number, bucket in self.buckets.items():
            root = bucketed.bucket_root(bucket, 1)
            if root is not None:
                self.top.update({number: root})
        covers = len(self.leaves)
        seal = codec.Seal(self.now_ms(), covers, self.top.root(), len(self.chains), b"\x01" * 32)
        self.leaves.append(codec.encode_seal(seal))

    def now_ms(self) -> int:
        return 1_001_000 + len(self.leaves)

    def note(self) -> bytes:
        size = len(self.leaves)
        point = checkpoint.Checkpoint(ORIGIN, size, Naive(self.leaves).root(size))
        text = checkpoint.format_checkpoint(point)
        return note.format_note(text, [LOG.sign(text), *(by.cosign(text, at_s) for by, at_s in self.cosigned)])

    def history(self, request: ls.GetHistoryRequest | None = None) -> Stream:
        """Answer a request for the person's history, honestly."""
        request = request or ls.GetHistoryRequest()
        self.seal()
        size, tree = len(self.leaves), Naive(self.leaves)
        if request.known_tree_size > size:
            raise FakeRpcError(grpc.StatusCode.FAILED_PRECONDITION, "AHEAD_OF_LEDGER")
        head = ls.HistoryHead(checkpoint=self.note(), seal=self.leaves[-1], seal_inclusion=tree.path(size - 1, 0, size))
        if 0 < request.known_tree_size < size:
            head.consistency.extend(tree.subproof(request.known_tree_size, 0, size, True))
        pieces = Stream([ls.GetHistoryResponse(head=head)])
        for tag, name in ((TAG, ""), (LEDGER_TAG, "ledger"), (CLINIC_TAG, "participant/clinic-b")):
            if tag in self.chains or tag == TAG:
                pieces += self.chain(tag, name, request.known_count if tag == TAG else 0)
        return pieces

    def chain(self, tag: bytes, name: str, known: int) -> list[ls.GetHistoryResponse]:
        entries = self.chains.get(tag, [])
        map_key = codec.map_key(tag)
        neighbour = self.top.plan_neighbour(bucketed.bucket_of(map_key, 1))
        present, proof = bucketed.prove(map_key, self.buckets[neighbour or 0], self.top)
        assert present == bool(entries)
        chain = ls.HistoryChain(
            tag=tag,
            public_name=name,
            count=len(entries),
            head=codec.chain_hash(entries[-1].leaf) if entries else b"",
            map_proof=proof,
            first_seq=known + 1,
        )
        pieces = [ls.GetHistoryResponse(chain=chain)]
        # One entry a piece, as a long history comes.
        pieces += [ls.GetHistoryResponse(entries=ls.HistoryEntries(entries=[entry])) for entry in entries[known:]]
        return pieces


ENROLLED = st.EnrolStatement(scheme="mhid", attestation=st.Attestation(attested_by="app"))
GRANTED = st.GrantStatement(consent=consent())
REVOKED = st.RevokeStatement(lineage_seq=2)


def small() -> Small:
    """Return a ledger with a participant that has a key, and a person with three entries."""
    made = Small()
    made.add(EntryKind.PARTICIPANT, CLINIC_TAG, st.ParticipantStatement(participant_id="clinic-b"))
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=CLINIC.public_key))
    return made.person(ENROLLED, GRANTED, REVOKED)


def reading(*answers: Answer, memory: Any = None, trust: Trust = SMALL, now_ms: int | None = None) -> Client:
    """Return a client that is given these answers; *now_ms*: what its clock says."""
    client = faking(*answers, trust=trust, memory=memory)[0]
    if now_ms is not None:
        client.context = replace(client.context, now_ms=lambda: now_ms)
    return client


def remembered(made: Small) -> RamMemory:
    memory = RamMemory()
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3
    return memory
