"""Bytes that are in order, from which mutants are made: a small ledger, its evidence, files, requests."""

import json
import random
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509

from cases import fhir_consents
from cases.audits import LOG, ORIGIN
from cases.certificates import make_authority, make_certificate
from cases.daemons import consent, question
from cases.logins import Provider, id_tokens_of
from cases.policy_worlds import Draw
from cases.vectors_evidence import Made, make_all
from consentd.audit.sources import encode_openings
from consentd.backup import manifest
from consentd.core import (
    call_signature,
    checkpoint,
    codec,
    ed25519,
    merkle,
    note,
    pruned,
    replay_state,
    submission,
    tiles,
)
from consentd.core.evidence import format_rotations
from consentd.core.history import ChainProof, HeldChain, HistoryEntry, RotationProof
from consentd.core.kinds import EntryKind
from consentd.cosigning import mldsa
from consentd.ledger import ledger, restored
from consentd.policy.compile import compile_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Rules
from consentd.service import auth
from consentd.service.id_tokens import IdTokens
from consentd.service.pages import Cursor, Pager
from consentd.statements.chains import HeldPart
from consentd.statements.values import rules_message, vocabulary_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client import Trust, history_file, memory
from consentd_client.memory import RamMemory, RememberedEntry, RememberedHistory

_OPS = Path(__file__).resolve().parents[2] / "ops"
_SALT = 32
_DATES = (b"", b"~2026-01-31", b"~2026-01-31T09:00:00Z")
NOW_MS = 1_800_000_000_000


@dataclass
class Seeds:
    """What parsers read. Each list is made when it is first wanted."""

    made: Made
    provider: Provider
    tokens: IdTokens
    origin: str = ORIGIN
    log: note.Verifier = field(default_factory=lambda: LOG.verifier)
    now_ms: int = NOW_MS

    # -- the ledger

    @cached_property
    def witness(self) -> note.Signer:
        """A witness that cosigns."""
        return note.Signer("witness.example/w", ed25519.KeyPair(b"w" * 32), note.COSIGNATURE)

    @cached_property
    def leaves(self) -> list[bytes]:
        """Entries and seals."""
        return list(self.made.forge.leaves)

    @cached_property
    def statements(self) -> list[bytes]:
        """The statements of the entries."""
        return [opening[_SALT:] for opening in self.made.forge.openings if opening is not None]

    @cached_property
    def openings(self) -> list[bytes]:
        """The openings of all entries, and of none."""
        return [encode_openings(self.made.forge.openings), b""]

    @cached_property
    def bundles(self) -> list[bytes]:
        """Entry bundles, one with gaps."""
        return [tiles.encode_bundle(self.leaves), tiles.encode_bundle([b"", *self.leaves[:3], b""])]

    @cached_property
    def payloads(self) -> list[bytes]:
        """A kind, then a payload of that kind; of each kind at least an empty one."""
        found = [
            bytes([event.kind]) + codec.decode_statement(opening[_SALT:]).payload
            for leaf, opening in zip(self.leaves, self.made.forge.openings, strict=True)
            if opening is not None and isinstance(event := codec.decode_leaf(leaf), codec.Event)
        ]
        stated = {
            EntryKind.GRANT: st.GrantStatement(consent=consent()),
            EntryKind.AMEND: st.AmendStatement(consent=consent(), lineage_seq=2, version=2),
            EntryKind.VOCABULARY: vocabulary_message(DEFAULT_VOCABULARY),
            EntryKind.RULES: rules_message(Rules(), realm_id="realm", version=1, vocabulary_id="kr-phr"),
            EntryKind.DELEGATION: st.DelegationStatement(giver="a", taker="b", purposes=["TREAT"], end_time_ms=9),
            EntryKind.MANDATE: st.MandateStatement(auditor="a", giver="b", scope="all", reason="law", end_time_ms=9),
        }
        found += [bytes([kind]) + message.SerializeToString() for kind, message in stated.items()]
        return [*found, *(bytes([kind]) for kind in EntryKind)]

    @cached_property
    def questions(self) -> list[bytes]:
        """Questions, one of all parts."""
        subject = pb.Subject(scheme="mhid", value="SYN-1")
        whole = question(subject, categories=["CLIN", "INS"], resources=pb.CodeSet(values=["Observation/1"]))
        return [question(subject).SerializeToString(), whole.SerializeToString()]

    @cached_property
    def text(self) -> str:
        """The text of the checkpoint."""
        return note.parse_note(self.notes[0]).text

    @cached_property
    def notes(self) -> list[bytes]:
        """Signed checkpoints, one with a cosignature."""
        signed = self.made.forge.note()
        cosignature = self.witness.cosign(note.parse_note(signed).text, NOW_MS // 1000)
        return [signed, signed + note.format_signature(cosignature).encode() + b"\n"]

    @cached_property
    def cosignatures(self) -> list[bytes]:
        """What a witness answers."""
        return [submission.format_cosignatures([self.witness.cosign(self.text, NOW_MS // 1000)])]

    @cached_property
    def proofs(self) -> list[bytes]:
        """Proof files of an entry."""
        hashes = tuple(merkle.leaf_hash(leaf) for leaf in self.leaves[:5])
        return [checkpoint.format_proof(checkpoint.ProofBundle(b"x", 3, hashes, one)) for one in self.notes]

    @cached_property
    def submissions(self) -> list[bytes]:
        """Requests for a cosignature."""
        return [
            submission.format_submission(submission.Submission(size, (bytes(32),) * count, self.notes[0]))
            for size, count in ((0, 0), (7, 3))
        ]

    @cached_property
    def evidence(self) -> list[bytes]:
        """Files of evidence, of each scope."""
        return [json.dumps(one, separators=(",", ":")).encode() for one in self.made.files.values()]

    @cached_property
    def rotations(self) -> list[bytes]:
        """The file of a ledger's rotations."""
        entry = HistoryEntry(self.leaves[0], (bytes(32), self.statements[0]))
        chain = ChainProof(
            tag=bytes(32), public_name="ledger", count=1, head=bytes(32), map_proof=b"", first_seq=1, entries=(entry,)
        )
        proof = RotationProof(
            checkpoint=self.notes[0], seal=self.leaves[0], seal_inclusion=(bytes(32),), history=chain, consistency=()
        )
        return [format_rotations([proof])]

    @cached_property
    def pruned(self) -> list[bytes]:
        """The file `pruned`."""
        return [pruned.format_pruned(pruned.NOTHING), b"minimum 256\nstart 300\nkept_from_ms 1800000000000\n"]

    @cached_property
    def replay_states(self) -> list[bytes]:
        """States of a replay."""
        edge, _ = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves])
        state = replay_state.ReplayState(
            size=edge.size, time_ms=NOW_MS, sealed_size=3, seal_hash=bytes(32), edge=edge,
            unknown=frozenset({b"u" * 32}),
        )  # fmt: skip
        return [replay_state.encode_state(state)]

    # -- keys

    @cached_property
    def vkeys(self) -> list[bytes]:
        """Verifier keys."""
        return [note.format_vkey(one).encode() for one in (self.log, self.witness.verifier)]

    @cached_property
    def signing_keys(self) -> list[bytes]:
        """Signing keys, as in files."""
        return [note.format_signing_key(one).encode() for one in (LOG, self.witness)]

    @cached_property
    def _mldsa(self) -> mldsa.MldsaSigner:
        return mldsa.MldsaSigner(ORIGIN, bytes(32))

    @cached_property
    def mldsa_vkeys(self) -> list[bytes]:
        """Verifier keys of ML-DSA."""
        return [mldsa.format_mldsa_vkey(self._mldsa.verifier).encode()]

    @cached_property
    def mldsa_keys(self) -> list[bytes]:
        """Signing keys of ML-DSA."""
        return [mldsa.format_mldsa_signing_key(self._mldsa).encode()]

    @cached_property
    def policies(self) -> list[bytes]:
        """Policies of witnesses."""
        log, witness = (one.decode() for one in self.vkeys)
        one = f"log {log} https://log.example/\nwitness a {witness} https://w.example/\nquorum a\n"
        return [b"quorum none\n", one.encode(), f"witness a {witness}\ngroup g any a\nquorum g\n".encode()]

    # -- rows and files

    @cached_property
    def states(self) -> list[bytes]:
        """The row of a ledger's state."""
        return [ledger.encode_state(ledger.empty_state(17))]

    @cached_property
    def subjects(self) -> list[bytes]:
        """Rows of persons with consents, among them consents that recur."""
        draw = Draw(random.Random(7))
        worlds = [draw.any_world() for _ in range(12)] + [draw.recurring(draw.any_world()) for _ in range(8)]
        return [world.value for world in worlds if world.value]

    @cached_property
    def rules(self) -> list[bytes]:
        """Compiled rules."""
        return [compile_rules(Rules(), DEFAULT_VOCABULARY, {}).encoded]

    @cached_property
    def restored(self) -> list[bytes]:
        """The mark of a restored directory."""
        return [restored.format_restored(restored.Restored(ORIGIN, 7, bytes(32), NOW_MS, NOW_MS))]

    @cached_property
    def manifests(self) -> list[bytes]:
        """The manifest of a set of a backup."""
        of = manifest.Snapshot(
            backup_id="ab" * 16, name="one", origin=ORIGIN, time_ms=NOW_MS, expires_time_ms=NOW_MS + 1,
            checkpoint=b"c\n", tree_size=7, root=bytes(32), map_root=bytes(32),
        )  # fmt: skip
        file = manifest.SetFile("CURRENT", 16, bytes(32), 200, bytes(32))
        made = manifest.Manifest(kind=manifest.SetKind.VAULT, of=of, vault_state=bytes(40), files=(file,))
        return [manifest.format_manifest(made)]

    @cached_property
    def credentials(self) -> list[bytes]:
        """Files of credentials."""
        more = auth.new_line("app", token="t", certificate_hash=b"", end_ms=NOW_MS, label="a b", now_ms=1)
        lines = auth.format_credential("x", "clinic-b") + auth.format_credential("y", "operator/main")
        return [(lines + more + f"used {'ab' * 16} 2026-01-31\n# a\n").encode()]

    @cached_property
    def configs(self) -> list[bytes]:
        """The example, and one with a provider of logins."""
        example = (_OPS / "consentd.toml").read_text()
        short = "\n".join(line for line in example.splitlines() if line and not line.startswith("#"))
        return [short.encode(), f"{short}\n{self.provider.config()}".encode()]

    @cached_property
    def witness_configs(self) -> list[bytes]:
        """The example."""
        return [(_OPS / "witness.toml").read_bytes()]

    @cached_property
    def trust(self) -> Trust:
        """What a client pins."""
        return Trust(ORIGIN, self.log, None, ())

    @cached_property
    def _entries(self) -> tuple[RememberedEntry, ...]:
        return (RememberedEntry(HistoryEntry(self.leaves[0], (bytes(32), self.statements[0])), "ledger"),)

    @cached_property
    def memories(self) -> list[bytes]:
        """The memory file of a client."""
        kept = {"chain": RememberedHistory(bytes(32), self._entries)}
        known = self.vkeys[0].decode()
        return [memory._encode(RamMemory(self.notes[0], kept, {known: known}))]

    @cached_property
    def history_states(self) -> list[bytes]:
        """The state beside a history file."""
        part = HeldPart(bytes(32), HeldChain(3, bytes(32), time_ms=NOW_MS), (), ())
        state = history_file.HistoryState(self.notes[0], part, ())
        return [history_file._encode_state(state, 100, 3, True)]

    # -- callers and institutions

    @cached_property
    def call_signatures(self) -> list[bytes]:
        """Headers of calls that a person signs."""
        key = ed25519.KeyPair(bytes(32))
        return [call_signature.sign_call(key, origin=ORIGIN, method="/a/b", time_ms=NOW_MS, message=b"")]

    @cached_property
    def certificates(self) -> list[bytes]:
        """Client certificates, PEM."""
        names = [x509.DNSName("gw.clinic.example"), x509.UniformResourceIdentifier("https://clinic.example/a")]
        authority = make_authority()
        return [make_certificate(authority, "a", names).pem.encode(), authority.pem.encode()]

    @cached_property
    def page_tokens(self) -> list[bytes]:
        """Tokens of pages, with the right key and with another one."""
        request = cs.ListConsentsRequest()
        return [
            Pager(key, "app", request).token(Cursor(1, 2, mark=3)).encode() for key in (bytes(32), b"k" * 32)
        ] + [urlsafe_b64encode(bytes(48))]

    @cached_property
    def fhir(self) -> list[bytes]:
        """Consents of FHIR R4 and R5, a Bundle, and a Consent in XML."""
        resources: list[dict[str, Any]] = [fhir_consents.r4(), fhir_consents.r5()]
        resources.append(fhir_consents.bundle(*resources))
        xml = (
            b'<Consent xmlns="http://hl7.org/fhir"><id value="own"/><status value="active"/><provision><type value='
            b'"permit"/><purpose><system value="s"/><code value="TREAT"/></purpose></provision></Consent>'
        )
        return [(_OPS / "fhir-consent.json").read_bytes(), xml, *(json.dumps(one).encode() for one in resources)]

    @cached_property
    def mapping(self) -> str:
        """A mapping of codes."""
        return (_OPS / "fhir-mapping.toml").read_text()

    @cached_property
    def sources(self) -> list[bytes]:
        """`Consent.source` of imported consents."""
        return [b"fhir/r4#" + b"ab" * 8 + b"@" + b"cd" * 8 + date for date in _DATES]


@lru_cache(maxsize=1)
def made_seeds() -> Seeds:
    """Return the seeds, made once in a process."""
    with TemporaryDirectory() as directory:
        provider = Provider(Path(directory))
        return Seeds(make_all(Path(directory)), provider, id_tokens_of(provider))
