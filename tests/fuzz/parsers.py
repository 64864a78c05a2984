"""Every public parser, with seeds that are in order and the errors that it declares.

A parser is a function that reads what somebody else wrote: bytes and texts of callers, providers, logs, witnesses,
institutions, files. ``test_fuzz.py`` finds functions of the code that are missing here.
"""

import base64
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cases.logins import SigningKey, key_set
from consentd import config, sections
from consentd.audit.sources import decode_openings
from consentd.backup import manifest
from consentd.core import (
    call_signature,
    certificate_name,
    checkpoint,
    codec,
    ed25519,
    identifier,
    note,
    pruned,
    quorum,
    recent_statements,
    replay_state,
    submission,
    tiles,
)
from consentd.core import evidence as evidence_file
from consentd.cosigning import mldsa
from consentd.cosigning.connection import Connection
from consentd.errors import (
    ConsentdError,
    CorruptionError,
    InvalidError,
    StorageError,
    VerificationError,
)
from consentd.fhir import consents as fhir_consents
from consentd.fhir import document as fhir_document
from consentd.fhir import identity as fhir_identity
from consentd.fhir import mapping as fhir_mapping
from consentd.ledger import kek, ledger, predecessor, restored
from consentd.policy import authority, dates, justification, language, recurrence
from consentd.policy import subject as subject_rows
from consentd.policy.compile import decode_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.server.client_certificates import certificate_names
from consentd.server.http import conditional_response
from consentd.service import auth
from consentd.service import key_set as key_sets
from consentd.service.auth import UnauthenticatedError
from consentd.service.authentication import _read_bearer
from consentd.service.consents import parse_consent_id
from consentd.service.id_tokens import Refusals
from consentd.service.pages import Pager
from consentd.statements import decisions, delegations, payloads, values
from consentd.statements import evidence as statements_evidence
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd.witnessd.config import parse_witness_config
from consentd_client import evidence as client_evidence
from consentd_client import history_file, memory, transport
from consentd_client.history import open_remembered
from fuzz.seeds import Seeds, made_seeds

Declared = tuple[type[Exception], ...]
EVIDENCE: Declared = (VerificationError,)
REQUEST: Declared = (InvalidError,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """A parser of bytes, or of a text that is given here as UTF-8.

    Attributes:
        covers: the functions that it runs, as ``module:function``.
        make_seeds: returns bytes that are in order.
        declared: the errors that its docstring declares.
        weight: how often it runs, against 1 of the others: less if it is slow.
    """

    name: str
    covers: tuple[str, ...]
    parse: Callable[[bytes], object]
    make_seeds: Callable[[], Sequence[bytes]]
    declared: Declared
    weight: float = 1.0


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of texts as one of bytes. A text may have any code point, also a lone surrogate."""
    return lambda content: parse(content.decode("utf-8", "surrogateescape" if len(content) % 2 else "replace"))


def _strict_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of texts that are UTF-8 for certain: a message of protobuf has no others."""
    return lambda content: parse(content.decode("utf-8", "replace"))


def _pair(parse: Callable[[str, str], object]) -> Callable[[bytes], object]:
    """Return a parser of two texts, which a newline separates here."""

    def parse_both(content: bytes) -> object:
        first, _, second = content.decode("utf-8", "replace").partition("\n")
        return parse(first, second)

    return parse_both


def _by_kind(parse: Callable[[int, bytes], object]) -> Callable[[bytes], object]:
    """Return a parser of a payload whose kind is the first byte."""
    return lambda content: parse(content[0] if content else 0, content[1:])


def _seed(choose: Callable[[Seeds], Sequence[bytes]]) -> Callable[[], Sequence[bytes]]:
    return lambda: choose(made_seeds())


def _texts(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in texts]


# -- what has several steps -----------------------------------------------------------------------------------


def _read_values(kind: int, payload: bytes) -> None:
    """Read what a payload says, as the daemon does with each statement that it records or replays."""
    message: Any = payloads.decode_payload(kind, payload)
    payloads.is_understood(message)
    if isinstance(message, st.GrantStatement | st.AmendStatement):
        values.consent_value(message.consent)
    elif isinstance(message, st.VocabularyStatement):
        values.vocabulary_value(message)
    elif isinstance(message, st.RulesStatement):
        values.rules_value(message)
    elif isinstance(message, st.DelegationStatement):
        delegations.delegation_value(message)
    elif isinstance(message, st.MandateStatement):
        delegations.check_mandate(message)
    for read in (values.stated_retention, values.stated_version, values.named_key, values.stated_of_ledger_keys):
        read(kind, payload)


def _question(content: bytes) -> None:
    message = payloads.parse(pb.Question, content)
    decisions.check_fields(message)
    decisions.question_value(message)
    decisions.form_of(content)


def _evidence(content: bytes) -> None:
    seeds = made_seeds()
    verified = evidence_file.parse_evidence(content)
    statements_evidence.verify_evidence(verified, origin=seeds.origin, log_verifier=seeds.log)


def _id_token(content: bytes) -> None:
    tokens = made_seeds().tokens
    tokens.refusals = Refusals()  # so that none is refused because there are many
    tokens.verify(content.decode("utf-8", "surrogateescape"), now_ms=made_seeds().now_ms)


def _token_seeds() -> Sequence[bytes]:
    provider, now_ms = made_seeds().provider, made_seeds().now_ms
    return [
        provider.token("SYN-1", now_ms).encode(),
        provider.token("SYN-1", now_ms, header={"alg": "none"}).encode(),
        provider.token("SYN-1", now_ms, aud=["a", "b"], exp=1e300).encode(),
    ]


def _token_parts(content: bytes) -> None:
    """Verify a token whose header and claims are signed as they are: what a provider that went mad can sign."""
    provider, tokens = made_seeds().provider, made_seeds().tokens
    header, _, claims = content.partition(b"\n")
    signed = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, claims))
    signature = base64.urlsafe_b64encode(provider.key.sign(signed.encode())).rstrip(b"=").decode()
    tokens.refusals = Refusals()
    tokens.verify(f"{signed}.{signature}", now_ms=made_seeds().now_ms)


def _part_seeds() -> Sequence[bytes]:
    return [
        b"\n".join(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in token.split(b".")[:2])
        for token in _token_seeds()
    ]


def _page_token(content: bytes) -> None:
    request = cs.ListConsentsRequest(page_token=content.decode("utf-8", "replace"))
    Pager(bytes(32), "app", request).cursor(10)


def _headers(content: bytes) -> None:
    lines = content.decode("latin-1").split("\n")
    conditional_response(b"0123456789", dict(line.partition(": ")[::2] for line in lines))


@cache
def _mapping() -> Any:
    return fhir_mapping.parse_mapping(made_seeds().mapping, DEFAULT_VOCABULARY)


def _open_state(content: bytes) -> None:
    history_file._decode_state(content)


def _cosignatures(content: bytes) -> None:
    seeds = made_seeds()
    submission.open_cosignatures(content, seeds.text, {seeds.witness.verifier.name: seeds.witness.verifier})


_TLS = ssl.create_default_context()  # one for all: to make it takes 40 ms
_TOML_BASE = Path("/srv/consentd")
_JWK = [SigningKey("k1"), SigningKey("k2", "EdDSA"), SigningKey("k3", "RS256")]

PARSERS: tuple[Parser, ...] = (
    # -- the ledger's own formats
    Parser(name="leaf", covers=("core.codec:decode_leaf",), parse=codec.decode_leaf,
           make_seeds=_seed(lambda one: one.leaves), declared=EVIDENCE),
    Parser(name="statement", covers=("core.codec:decode_statement",), parse=codec.decode_statement,
           make_seeds=_seed(lambda one: one.statements), declared=EVIDENCE),
    Parser(name="payload", covers=("statements.payloads:decode_payload", "statements.payloads:parse",
           "statements.payloads:decode_known_payload"), parse=_by_kind(_read_values),
           make_seeds=_seed(lambda one: one.payloads), declared=(*EVIDENCE, *REQUEST)),
    Parser(name="question", covers=(), parse=_question, make_seeds=_seed(lambda one: one.questions),
           declared=(*EVIDENCE, *REQUEST)),
    Parser(name="openings", covers=("audit.sources:decode_openings",), parse=decode_openings,
           make_seeds=_seed(lambda one: one.openings), declared=EVIDENCE),
    Parser(name="bundle", covers=("core.tiles:decode_bundle",), parse=tiles.decode_bundle,
           make_seeds=_seed(lambda one: one.bundles), declared=EVIDENCE),
    Parser(name="tile path", covers=("core.tiles:parse_tile_path",), parse=_text(tiles.parse_tile_path),
           make_seeds=_texts("tile/0/000", "tile/1/x001/234.p/5", "tile/entries/x001/x234/067.p/255"),
           declared=EVIDENCE),
    Parser(name="note", covers=("core.note:parse_note", "core.note:parse_signature"), parse=note.parse_note,
           make_seeds=_seed(lambda one: one.notes), declared=EVIDENCE),
    Parser(name="signed note", covers=("core.note:open_note",),
           parse=lambda content: note.open_note(content, [made_seeds().log]),
           make_seeds=_seed(lambda one: one.notes), declared=EVIDENCE),
    Parser(name="checkpoint", covers=("core.checkpoint:parse_checkpoint", "core.checkpoint:parse_decimal",
           "core.checkpoint:parse_hash"), parse=_text(checkpoint.parse_checkpoint),
           make_seeds=_seed(lambda one: [one.text.encode()]), declared=EVIDENCE),
    Parser(name="signed checkpoint", covers=("core.checkpoint:open_checkpoint", "core.checkpoint:open_own"),
           parse=lambda content: checkpoint.open_checkpoint(content, made_seeds().origin, made_seeds().log),
           make_seeds=_seed(lambda one: one.notes), declared=EVIDENCE),
    Parser(name="proof", covers=("core.checkpoint:parse_proof", "core.checkpoint:split_note"),
           parse=checkpoint.parse_proof, make_seeds=_seed(lambda one: one.proofs), declared=EVIDENCE),
    Parser(name="verifier key", covers=("core.note:parse_vkey", "core.note:split_key", "core.note:decode_base64",
           "core.note:check_name"), parse=_text(note.parse_vkey),
           make_seeds=_seed(lambda one: one.vkeys), declared=EVIDENCE),
    Parser(name="signing key", covers=("core.note:parse_signing_key", "core.note:split_signing_key"),
           parse=_text(note.parse_signing_key), make_seeds=_seed(lambda one: one.signing_keys), declared=EVIDENCE),
    Parser(name="ML-DSA verifier key", covers=("cosigning.mldsa:parse_mldsa_vkey",),
           parse=_text(mldsa.parse_mldsa_vkey), make_seeds=_seed(lambda one: one.mldsa_vkeys), declared=EVIDENCE),
    Parser(name="ML-DSA signing key", covers=("cosigning.mldsa:parse_mldsa_signing_key",),
           parse=_text(mldsa.parse_mldsa_signing_key), make_seeds=_seed(lambda one: one.mldsa_keys),
           declared=EVIDENCE, weight=0.3),
    Parser(name="witness policy", covers=("core.quorum:parse_policy",), parse=quorum.parse_policy,
           make_seeds=_seed(lambda one: one.policies), declared=EVIDENCE),
    Parser(name="submission", covers=("core.submission:parse_submission",), parse=submission.parse_submission,
           make_seeds=_seed(lambda one: one.submissions), declared=EVIDENCE),
    Parser(name="size of a witness", covers=("core.submission:parse_size",), parse=submission.parse_size,
           make_seeds=_texts("12345\n", "0\n"), declared=EVIDENCE),
    Parser(name="cosignatures", covers=("core.submission:open_cosignatures",), parse=_cosignatures,
           make_seeds=_seed(lambda one: one.cosignatures), declared=EVIDENCE),
    Parser(name="pruned", covers=("core.pruned:parse_pruned",), parse=pruned.parse_pruned,
           make_seeds=_seed(lambda one: one.pruned), declared=EVIDENCE),
    Parser(name="evidence", covers=("core.evidence:parse_evidence",), parse=_evidence,
           make_seeds=_seed(lambda one: one.evidence), declared=EVIDENCE, weight=0.2),
    Parser(name="history of a client", covers=("consentd_client.evidence:open_history",),
           parse=lambda content: client_evidence.open_history(content, trust=made_seeds().trust),
           make_seeds=_seed(lambda one: one.evidence), declared=EVIDENCE, weight=0.2),
    Parser(name="rotations", covers=("core.evidence:parse_rotations",), parse=evidence_file.parse_rotations,
           make_seeds=_seed(lambda one: one.rotations), declared=EVIDENCE),
    Parser(name="state of a replay", covers=("core.replay_state:decode_state",), parse=replay_state.decode_state,
           make_seeds=_seed(lambda one: one.replay_states), declared=EVIDENCE),
    Parser(name="heads of a replay", covers=("core.replay_state:decode_head", "core.replay_state:decode_heads"),
           parse=replay_state.decode_heads, make_seeds=lambda: [bytes(73), bytes(146), b"\1" * 73], declared=EVIDENCE),
    Parser(name="recent statements", covers=("core.recent_statements:decode_recent",),
           parse=recent_statements.decode_recent, make_seeds=lambda: [bytes(88), bytes(176)], declared=EVIDENCE),
    Parser(name="remembered checkpoint", covers=("consentd_client.history:open_remembered",),
           parse=lambda content: open_remembered(content, made_seeds().trust),
           make_seeds=_seed(lambda one: one.notes), declared=REQUEST),
    # -- rows and files of the daemon and of clients
    Parser(name="row of the ledger's state", covers=("ledger.ledger:decode_state",), parse=ledger.decode_state,
           make_seeds=_seed(lambda one: one.states), declared=(CorruptionError,)),
    Parser(name="row of a person", covers=("policy.subject:decode_subject", "policy.rows:decode_side",
           "policy.rows:decode_sides", "policy.rows:decode_ends", "policy.rows:decode_numbers",
           "policy.rows:decode_references", "policy.rows:decode_uses"), parse=subject_rows.decode_subject,
           make_seeds=_seed(lambda one: one.subjects), declared=EVIDENCE),
    Parser(name="row of an authority", covers=("policy.authority:decode_authority",),
           parse=authority.decode_authority, make_seeds=lambda: [bytes(64), b"\1" * 40 + b"guardian"],
           declared=EVIDENCE),
    Parser(name="row of the rules", covers=("policy.compile:decode_rules",),
           parse=lambda content: decode_rules(content, DEFAULT_VOCABULARY), make_seeds=_seed(lambda one: one.rules),
           declared=EVIDENCE),
    Parser(name="checkpoint of a predecessor", covers=("ledger.predecessor:parse_predecessor",),
           parse=predecessor.parse_predecessor, make_seeds=_seed(lambda one: one.notes), declared=EVIDENCE),
    Parser(name="mark of a restored directory", covers=("ledger.restored:parse_restored",),
           parse=restored.parse_restored, make_seeds=_seed(lambda one: one.restored), declared=EVIDENCE),
    Parser(name="key-encryption key", covers=("ledger.kek:parse_key",), parse=_text(kek.parse_key),
           make_seeds=_texts("ab" * 32, base64.b64encode(bytes(32)).decode()), declared=()),
    Parser(name="manifest of a backup", covers=("backup.manifest:parse_manifest", "core.json_fields:parse_object"),
           parse=manifest.parse_manifest, make_seeds=_seed(lambda one: one.manifests), declared=EVIDENCE),
    Parser(name="credentials", covers=("service.auth:parse_lines", "service.operator_roles:parse_roles"),
           parse=lambda content: auth.parse_lines(content, Path("credentials")),
           make_seeds=_seed(lambda one: one.credentials), declared=REQUEST),
    Parser(name="configuration", covers=("config:parse", "sections:parse_toml", "sections:parse_section"),
           parse=_text(lambda text: config.parse(text, base_dir=_TOML_BASE)),
           make_seeds=_seed(lambda one: one.configs), declared=REQUEST, weight=0.03),
    Parser(name="configuration of a witness", covers=("witnessd.config:parse_witness_config",),
           parse=_text(lambda text: parse_witness_config(text, base_dir=_TOML_BASE)),
           make_seeds=_seed(lambda one: one.witness_configs), declared=REQUEST, weight=0.1),
    Parser(name="recurrence of a consent", covers=("policy.recurrence:parse_recurrence",),
           parse=_text(recurrence.parse_recurrence), make_seeds=_texts("once", "P1M", "P1Y2M10DT2H30M5S", "P2W"),
           declared=REQUEST),
    Parser(name="address to listen on", covers=("sections:parse_listen",), parse=_text(sections.parse_listen),
           make_seeds=_texts("127.0.0.1:7400", "[::1]:0", "localhost:65535"), declared=REQUEST),
    Parser(name="memory of a client", covers=(), parse=memory._decode, make_seeds=_seed(lambda one: one.memories),
           declared=(StorageError,)),
    Parser(name="state of a history file", covers=(), parse=_open_state,
           make_seeds=_seed(lambda one: one.history_states), declared=(StorageError,)),
    # -- callers
    Parser(name="call signature", covers=("core.call_signature:decode_call_signature",),
           parse=call_signature.decode_call_signature, make_seeds=_seed(lambda one: one.call_signatures),
           declared=EVIDENCE),
    Parser(name="authorization header", covers=(), parse=_text(_read_bearer),
           make_seeds=_texts("Bearer abc", "Bearer a.b.c", "Basic abc"), declared=(UnauthenticatedError,)),
    Parser(name="ID token", covers=("service.key_set:decode_base64url", "service.key_set:parse_object",
           "core.strict_json:parse_json"), parse=_id_token, make_seeds=_token_seeds, declared=(UnauthenticatedError,),
           weight=0.5),
    Parser(name="claims of an ID token", covers=(), parse=_token_parts, make_seeds=_part_seeds,
           declared=(UnauthenticatedError,), weight=0.2),
    Parser(name="key set", covers=("service.key_set:parse_key_set",), parse=key_sets.parse_key_set,
           make_seeds=lambda: [key_set(*_JWK), key_set(_JWK[0]), key_set(_JWK[1])], declared=EVIDENCE, weight=0.1),
    Parser(name="names of a certificate", covers=(), parse=certificate_names,
           make_seeds=_seed(lambda one: one.certificates), declared=(), weight=0.3),
    Parser(name="public key", covers=("core.ed25519:check_public_key",), parse=ed25519.check_public_key,
           make_seeds=lambda: [ed25519.KeyPair(bytes(32)).public_key, b"\1" + bytes(31)], declared=EVIDENCE,
           weight=0.3),
    Parser(name="certificate name", covers=("core.certificate_name:check_certificate_name",),
           parse=_strict_text(certificate_name.check_certificate_name),
           make_seeds=_texts("dns:gw.clinic.example", "uri:https://clinic.example/a?b#c", "dns:xn--3e0b707e"),
           declared=REQUEST),
    Parser(name="caller id", covers=("service.auth:check_caller_id",), parse=_text(auth.check_caller_id),
           make_seeds=_texts("clinic-b", "operator/main", "scraper/prometheus"), declared=REQUEST),
    # -- what requests state
    Parser(name="identifier", covers=("core.identifier:check_identifier", "core.identifier:check_scheme"),
           parse=_pair(identifier.check_identifier),
           make_seeds=_texts("mhid\nSYN-1", "mrn/hospital-a\n900101-1234568", "ci\nab=="), declared=REQUEST),
    Parser(name="page token", covers=(), parse=_page_token, make_seeds=_seed(lambda one: one.page_tokens),
           declared=(ConsentdError,)),
    Parser(name="consent id", covers=("service.consents:parse_consent_id",), parse=_strict_text(parse_consent_id),
           make_seeds=_texts("ab" * 16), declared=(ConsentdError,)),
    Parser(name="justification", covers=("policy.justification:check_justification",),
           parse=_strict_text(justification.check_justification),
           make_seeds=_texts("the person is unconscious in the emergency room", "ㅁㅁㅁㅁ"), declared=REQUEST),
    Parser(name="language tag", covers=("policy.language:canonical_tag", "policy.language:check_tag"),
           parse=_strict_text(language.canonical_tag), make_seeds=_texts("ko", "zh-Hant-TW", "sl-rozaj-biske", "x-a"),
           declared=REQUEST),
    Parser(name="instant", covers=("policy.dates:parse_instant_ms",), parse=_strict_text(dates.parse_instant_ms),
           make_seeds=_texts("2027-01-31T09:00:00Z", "2027-01-31T09:00:00.123+09:00"), declared=REQUEST),
    Parser(name="headers of a request for a file", covers=(), parse=_headers,
           make_seeds=_texts('Range: bytes=0-1\nIf-Range: "a"', 'If-None-Match: W/"a", "b"', "Range: bytes=-5"),
           declared=()),
    # -- what others publish
    Parser(name="FHIR document", covers=("fhir.document:parse_document", "fhir.xml_document:parse_xml"),
           parse=fhir_document.parse_document, make_seeds=_seed(lambda one: one.fhir), declared=REQUEST, weight=0.1),
    Parser(name="FHIR Consent", covers=("fhir.provisions:read_effect", "fhir.provisions:read_window"),
           parse=lambda content: fhir_consents.read_consents(content, _mapping()),
           make_seeds=_seed(lambda one: one.fhir), declared=REQUEST, weight=0.05),
    Parser(name="FHIR mapping", covers=("fhir.mapping:parse_mapping",),
           parse=_text(lambda text: fhir_mapping.parse_mapping(text, DEFAULT_VOCABULARY)),
           make_seeds=_seed(lambda one: [one.mapping.encode()]), declared=REQUEST, weight=0.02),
    Parser(name="source of an import", covers=("fhir.identity:parse_source",),
           parse=_strict_text(fhir_identity.parse_source), make_seeds=_seed(lambda one: one.sources), declared=()),
    Parser(name="URL of a log", covers=(), parse=_text(lambda text: Connection(text, timeout_s=1, tls=_TLS)),
           make_seeds=_texts("https://log.example/a/b", "http://[::1]:80/", "https://xn--3e0b707e.example:443"),
           declared=REQUEST),
    Parser(name="address of a daemon", covers=("consentd_client.transport:check_target",
           "consentd_client.transport:check_plaintext"), parse=_text(lambda text: (transport.check_target(text),
           transport.check_plaintext(text))), make_seeds=_texts("127.0.0.1:7400", "[::1]:1", "unix:/run/a"),
           declared=REQUEST),
)  # fmt: skip

ELSEWHERE: Mapping[str, str] = {
    "audit.checkpoints:open_note": "a function within read_checkpoint: opens a note as `signed checkpoint` does",
    "core.history:open_statement": "compares a commitment, then reads as `statement` does",
    "verify.statements:open_statement": "compares a commitment, then reads as `statement` does",
    "ledger.layout:decode_u64": "reads a row of eight bytes that fsck and the scrub compare",
    "verify.source:split_hashes": "cuts bytes whose length was checked",
    "table.participant_rows:decode_participant": "reads a row of the table, behind a checksum (checked_rows)",
    "policy.duty:decode_duty": "reads a row of the table, behind a checksum (checked_rows)",
    "table.view:parse_duty_key": "reads a key of the table, behind the same checksum",
    "table.checked_rows:open_row": "verifies that checksum",
    "policy.subject:split_subject": "reads a row of the table, behind a checksum (checked_rows)",
    "policy.rows:unpack_rows": "cuts bytes whose length was checked",
    "ledger.ledger:decode_request": "reads a row of 40 bytes that fsck and the scrub compare",
    "sequencer.commands.write:open_recorded": "decrypts, and the key of the vault authenticates what it reads",
    "service.rpc:decode_or_mark": "decodes a request: tests/test_garbage.py sends requests to each RPC",
}
"""Functions that look like parsers and have no line of their own, and why."""

assert len({one.name for one in PARSERS}) == len(PARSERS)
