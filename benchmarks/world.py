"""Make a ledger with many subjects, through the sequencer, in large batches.

Every entry takes the usual path, with two exceptions: there is no gRPC, and data keys are written to the vault a
thousand at a time, not one per synced write. Subject *n* has three consents of one row each, and *n* determines them,
so that the right answer to every question is known without a list of consents. *n* also determines the tag, so that
statements for the subject can be signed:

* lineage 1 allows recipient ``n mod 40`` treatment with clinical data
* lineage 2 allows recipient ``n + 13 mod 40`` care management with insurance data and lifelog
* lineage 3 allows recipient ``n + 29 mod 40`` research with clinical data; for every fourth subject it is an
  objection to that recipient
"""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tag_map import tag_of
from consentd import config
from consentd.core.certificate_name import DNS
from consentd.core.codec import RULES_PREFIX
from consentd.core.ed25519 import KeyPair
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import write_private
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Quotas, Rules
from consentd.sequencer.commands.consents import GrantConsent
from consentd.sequencer.commands.ledger import REALM
from consentd.sequencer.commands.registry import EnrolSubject, PublicWrite
from consentd.sequencer.commands.write import Request
from consentd.server.daemon import Daemon
from consentd.server.development_certificates import DOMAIN
from consentd.server.keys import FIRST_OPERATOR, KEY_SECTIONS, make_keys
from consentd.service.auth import format_credential, make_token
from consentd.service.requests import make_request
from consentd.service.servicer import Services
from consentd.statements.values import rules_message
from consentd.store import Batch
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

PARTICIPANTS = 40
RELAY = "relay"
RELAY_NAME = f"{DNS}{RELAY}.{DOMAIN}"
"""The name in the relay's certificate, as ``make_development_certificates`` makes it."""
RELAY_KEY = KeyPair(hashlib.sha256(b"the key the relay signs with").digest())
SCHEME = "mhid"
VAULT_BATCH = 1_000
ENTRIES_PER_SUBJECT = 4

_CONFIG = """
[ledger]
origin = "bench.consentd.example/ledger"
data_dir = "data"
checkpoint_interval_ms = {interval_ms}
map_bits = {map_bits}
{keys}[table]
map_size_mb = 16384
[grpc]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[pool]
max_waiting = {waiting}
max_batch = {batch}
[log]
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class World:
    """A ledger to measure on.

    Attributes:
        token: the relay's, which acts for subjects and sees reasons.
        build_s: seconds that the subjects' entries took.
        entries: number of these entries, without seals.
    """

    directory: Path
    token: str
    subjects: int
    build_s: float
    entries: int

    @property
    def config_file(self) -> Path:
        """Return the configuration to serve it with."""
        return self.directory / "consentd.toml"


def _write_config(file: Path, **options: int) -> None:
    file.write_text(_CONFIG.format(keys=KEY_SECTIONS, **options), encoding="utf-8")


def make_world(directory: Path, *, subjects: int) -> World:
    """Build the ledger of *subjects* in an empty directory."""
    map_bits = max(4, (max(1, subjects // 16) - 1).bit_length())
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "consentd.toml"
    _write_config(file, interval_ms=2_000, map_bits=map_bits, waiting=20_000, batch=2_000)
    found = config.load(file)
    make_keys(found)
    token = make_token()
    write_private(found.callers.credentials_file, format_credential(token, RELAY), append=True)
    daemon = Daemon(found)
    daemon.start()
    services = daemon.service_state.services
    assert services is not None, "a daemon that started serves"
    _submit_all(services, _registrations())
    started = time.perf_counter()
    count = 0
    for first in range(0, subjects, VAULT_BATCH):
        tags = _create_all(services, range(first, min(subjects, first + VAULT_BATCH)))
        count += _submit_all(services, _of_subjects(tags))
        _tell(first + len(tags), subjects, started)
    built = time.perf_counter() - started
    daemon.stop()
    _write_config(file, interval_ms=200, map_bits=map_bits, waiting=10_000, batch=400)
    return World(directory, token, subjects, built, count)


def _tell(done: int, of: int, started: float) -> None:
    if sys.stderr.isatty():
        rate, end = done / (time.perf_counter() - started), "\n" if done == of else ""
        print(f"\r  building: {done:,} of {of:,} subjects, {rate:,.0f}/s ", end=end, file=sys.stderr)


def _submit_all(services: Services, writes: Iterator[Any]) -> int:
    """Submit writes as fast as the pool accepts them, and wait for all; return their number."""
    waiting: deque[Future[Any]] = deque()
    count = 0
    for write in writes:
        while len(waiting) >= 8_000:
            waiting.popleft().result()
        waiting.append(services.sequencer.submit(write))
        count += 1
    for future in waiting:
        future.result()
    return count


def new_request(asker: str) -> Request:
    """Return a request of *asker* with a new request_id."""
    request_id = os.urandom(16)
    return make_request(asker, request_id, hashlib.sha256(request_id).digest())


def recipient(number: int) -> str:
    """Return the id of a recipient."""
    return f"recipient-{number % PARTICIPANTS:02d}"


def holder(number: int) -> str:
    """Return the id of a holder."""
    return f"holder-{number % PARTICIPANTS:02d}"


def _registrations() -> Iterator[PublicWrite[Any]]:
    rights = [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS, st.PARTICIPANT_RIGHT_SEE_REASONS]
    named = [
        (RELAY, st.PARTICIPANT_ROLE_RELAY, rights),
        *((recipient(number), st.PARTICIPANT_ROLE_RECIPIENT, []) for number in range(PARTICIPANTS)),
        *((holder(number), st.PARTICIPANT_ROLE_HOLDER, []) for number in range(PARTICIPANTS)),
    ]
    for name, role, held in named:
        message = st.ParticipantStatement(
            participant_id=name, name={"ko": "모의 기관", "en": name}, roles=[role], rights=held, active=True,
            certificate_names=[RELAY_NAME] if name == RELAY else [],
        )
        chain = PARTICIPANT_PREFIX + name
        yield PublicWrite(kind=EntryKind.PARTICIPANT, request=new_request(FIRST_OPERATOR), chain=chain, message=message)
    for number in range(PARTICIPANTS):
        chain = PARTICIPANT_PREFIX + recipient(number)
        given = st.DelegationStatement(
            giver=recipient(number), taker=RELAY, capacity=st.DELEGATION_CAPACITY_RELAY,
            attestation=st.Attestation(attested_by=FIRST_OPERATOR),
        )  # fmt: skip
        yield PublicWrite(kind=EntryKind.DELEGATION, request=new_request(FIRST_OPERATOR), chain=chain, message=given)
    # One relay asks all questions, so the realm's quotas are the highest.
    quotas = Quotas(entries_per_day=60_000, refusals_per_day=60_000, persons_per_hour=100_000)
    rules = rules_message(Rules(quotas=quotas), realm_id=REALM, version=2, vocabulary_id=DEFAULT_VOCABULARY.id)
    chain = RULES_PREFIX + REALM
    yield PublicWrite(kind=EntryKind.RULES, request=new_request(FIRST_OPERATOR), chain=chain, message=rules)
    key = st.KeyStatement(key=RELAY_KEY.public_key)
    chain = PARTICIPANT_PREFIX + RELAY
    yield PublicWrite(kind=EntryKind.KEY, request=new_request(FIRST_OPERATOR), chain=chain, message=key)


def identifier(number: int) -> str:
    """Return the identifier of subject *number*."""
    return f"BENCH-{number:08d}"


def subject(number: int) -> pb.Subject:
    """Return subject *number* as a caller names it."""
    return pb.Subject(scheme=SCHEME, value=identifier(number))


def _create_all(services: Services, numbers: range) -> list[tuple[int, bytes, bytes]]:
    """Create data keys in one synced write; return (number, identifier hash, tag) of each."""
    vault, batch, made = services.vault, Batch(), []
    for number in numbers:
        hashed, tag = vault.identifier_hash(SCHEME, identifier(number)), tag_of(number)
        batch.put(b"k" + tag, vault._wrapped(b"k" + tag, os.urandom(32)))  # noqa: SLF001  # as ``create`` does
        batch.put(b"i" + hashed, tag)
        made.append((number, hashed, tag))
    vault.store.write(batch)
    return made


def _of_subjects(created: list[tuple[int, bytes, bytes]]) -> Iterator[EnrolSubject | GrantConsent]:
    attestation = st.Attestation(attested_by=RELAY, method="bench")
    for _, hashed, tag in created:
        message = st.EnrolStatement(identifier_hash=hashed, scheme=SCHEME, attestation=attestation)
        yield EnrolSubject(request=new_request(RELAY), tag=tag, message=message)
    for number, hashed, _ in created:
        for consent in consents(number):
            granted = st.GrantStatement(consent=consent, attestation=attestation)
            yield GrantConsent(request=new_request(RELAY), identifier_hash=hashed, message=granted)


def consents(number: int) -> list[pb.Consent]:
    """Return the three consents of subject *number*."""
    made = []
    for who, purpose, categories in (
        (number, "TREAT", ["CLIN"]),
        (number + 13, "CAREMGT", ["INS", "LIFE"]),
        (number + 29, "HRESCH", ["CLIN"]),
    ):
        root = pb.Provision(
            effect=pb.EFFECT_PERMIT, actors=[recipient(who)], purposes=[purpose], categories=categories
        )
        made.append(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko"))
    if number % 4 == 0:
        root = pb.Provision(effect=pb.EFFECT_DENY, actors=[recipient(number + 29)])
        made[2] = pb.Consent(kind=pb.CONSENT_KIND_OBJECTION, root=root, language="ko")
    return made
