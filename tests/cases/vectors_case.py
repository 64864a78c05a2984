"""Vectors for verifiers in other languages: what to accept, and what to refuse and why.

Each vector is evidence with what it is verified under, and *want*: ``ok``, or what is wrong with it: ``malformed``,
``signature``, ``proof``; ``unknown_key``: nothing is determined. Histories and receipts are of a ledger that the real
sequencer wrote (``LedgerCase``); what no sequencer writes is forged with the log's own key (``vectors_forged``), so
that nothing but the one broken rule speaks against it. Changes with a reason of their own say what they want; those of
a sweep, bit by bit and field by field, must not be accepted, and want what our own verifier says of them: ``verdict``.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cases.ledgers import LOG, ORIGIN
from consentd.core import checkpoint, codec, ed25519, note, quorum
from consentd.core.evidence import Evidence, Scope, format_evidence, parse_evidence
from consentd.core.history import HistoryProof
from consentd.errors import InvalidError, MalformedError, ProofError, SignatureError, UnknownKeyError
from consentd.statements import payloads, values
from consentd.statements.evidence import VerifiedEvidence, verify_evidence
from consentd.v1 import statement_pb2 as st
from consentd_client import History
from consentd_client import history as client
from consentd_client.evidence import open_history
from consentd_client.receipts import verify_inclusion, verify_receipt
from consentd_client.trust import Trust

BANK = ed25519.KeyPair(b"\x21" * 32)
CITIZEN = ed25519.KeyPair(b"\x22" * 32)
STRANGER = ed25519.KeyPair(b"\x23" * 32)
TRUST = {"origin": ORIGIN, "log_key": note.format_vkey(LOG.verifier)}

Document = dict[str, Any]
"""A file of evidence, as JSON has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One thing to verify.

    Attributes:
        kind: ``history``, ``evidence``, ``receipt``, ``policy``, ``note``, ``signature``;
            ``key``, ``ledger``: payloads.
        want: what a verifier must say; empty: anything but ``ok``, and what ours says; ``any``: what ours says.
        content: what is verified: a file of evidence, a ``.tlog-proof``, a note, a signature, a payload.
        under: what it is verified under; values are JSON, bytes as base64. ``reads``: what it then says.
    """

    kind: str
    name: str
    want: str
    content: bytes = field(repr=False)
    under: Mapping[str, Any] = field(repr=False)


# -- files of evidence ------------------------------------------------------------------------------------------


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def to_document(proof: HistoryProof) -> Document:
    """Return evidence of the first chain of a proof as JSON has it, to be changed in one place."""
    document: Document = json.loads(format_evidence(Evidence(scope=Scope(tag=proof.chains[0].tag), proof=proof)))
    return document


def encode(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def history_vector(name: str, want: str, document: Any, **under: Any) -> Vector:
    """Return a vector of a history. The scope of *document* follows the first chain, whatever that was changed to."""
    match document:
        case {"scope": {"tag": str()}, "histories": [{"tag": str(tag)}, *_]}:
            document = {**document, "scope": {**document["scope"], "tag": tag}}
    content = document if isinstance(document, bytes) else encode(document)
    return Vector(kind="history", name=name, want=want, content=content, under={**TRUST, **under})


def evidence_vector(name: str, want: str, document: Any, **under: Any) -> Vector:
    """Return a vector of evidence, of a document or of bytes as they are."""
    content = document if isinstance(document, bytes) else encode(document)
    return Vector(kind="evidence", name=name, want=want, content=content, under={**TRUST, **under})


# -- our own verdict --------------------------------------------------------------------------------------------


def verdict(vector: Vector) -> str:
    """Return what our own verifier says; ``undetermined`` if all is proven, but something could not be determined."""
    try:
        is_determined = _VERIFY[vector.kind](vector)
    except MalformedError:
        return "malformed"
    except UnknownKeyError:
        return "unknown_key"
    except SignatureError:
        return "signature"
    except ProofError:
        return "proof"
    return "undetermined" if is_determined is False else "ok"


def read_evidence(vector: Vector) -> dict[str, Any]:
    """Return what a history or other evidence that is right says of what was pruned, and by whom entries are."""
    if vector.kind == "evidence":
        verified = _check_evidence(vector)
        return {"missing": verified.missing, "kept_from_ms": verified.histories.kept_from_ms}
    found = _verify_history(vector)
    return {
        "missing": [list(one) for one in found.missing],
        "kept_from_ms": found.kept_from_ms,
        "pruned": [entry.seq for entry in found.new if entry.is_pruned],
        "authors": [entry.author for entry in found.new],
    }


def _verify_history(vector: Vector) -> History:
    under = vector.under
    trust = Trust(under["origin"], note.parse_vkey(under["log_key"]))
    name, tag = under.get("public_name", ""), base64.b64decode(under.get("tag", ""))
    if "before" not in under:
        return open_history(vector.content, trust=trust, name=name, tag=tag)
    if "most" in under:
        return _verify_parts(vector, trust, tag)
    point, held = None, None
    for before in under["before"]:
        proof = parse_evidence(base64.b64decode(before)).proof
        shown, held = client.verify_history(
            proof, trust=trust, name=name, tag=tag, remembered_checkpoint=point, remembered=held
        )
        point = shown.checkpoint
    if under.get("hold") == "checkpoint":
        held = None
    evidence = parse_evidence(vector.content)
    if evidence.scope.chain != evidence.proof.chains[0].tag:
        raise ProofError("scope names another chain")
    return client.verify_history(
        evidence.proof, trust=trust, name=name, tag=tag, remembered_checkpoint=point, remembered=held
    )[0]


def _verify_parts(vector: Vector, trust: Trust, tag: bytes) -> History:
    """Verify a history in parts: each of ``before``, and the content. ``most`` has the sizes asked for; 0: the rest.

    Return the last part, with what is missing of all.
    """
    point, part = None, None
    missing: tuple[tuple[int, int], ...] = ()
    for content, most in zip([*map(base64.b64decode, vector.under["before"]), vector.content], vector.under["most"],
                             strict=True):  # fmt: skip
        shown, _, part = client.verify_history_part(
            parse_evidence(content).proof, trust=trust, tag=tag, remembered_checkpoint=point, before=part,
            most=most or None,
        )  # fmt: skip
        point, missing = shown.checkpoint, (*missing, *shown.missing)
    return replace(shown, missing=missing)


def _verify_receipt(vector: Vector) -> None:
    trust = Trust(vector.under["origin"], note.parse_vkey(vector.under["log_key"]))
    if "leaf" not in vector.under:
        leaf_hash, index = base64.b64decode(vector.under["leaf_hash"]), int(vector.under["index"])
        verify_inclusion(leaf_hash, vector.content, trust, index=index)
        return
    leaf = base64.b64decode(vector.under["leaf"])
    verify_receipt(leaf, vector.content, trust)
    codec.decode_leaf(leaf)


def _verify_evidence(vector: Vector) -> bool:
    found = _check_evidence(vector)
    return not (found.unproven or found.unknown)


def _check_evidence(vector: Vector) -> VerifiedEvidence:
    under = vector.under
    policy = quorum.parse_policy(base64.b64decode(under["policy"])) if "policy" in under else None
    log = note.parse_vkey(under["log_key"])
    return verify_evidence(parse_evidence(vector.content), origin=under["origin"], log_verifier=log, policy=policy)


def _verify_policy(vector: Vector) -> None:
    under = vector.under
    policy = quorum.parse_policy(base64.b64decode(under["policy"]))
    log = note.parse_vkey(under["log_key"])
    quorum.verify_cosigned(vector.content, policy, now_s=0, max_age_s=None, logs=[log])


def _verify_note(vector: Vector) -> None:
    under = vector.under
    witnesses = [note.parse_vkey(key) for key in under["witnesses"]]
    checkpoint.open_checkpoint(
        vector.content, under["origin"], note.parse_vkey(under["log_key"]), witnesses=witnesses
    )


def _verify_signature(vector: Vector) -> None:
    key, message = (base64.b64decode(vector.under[name]) for name in ("key", "message"))
    ed25519.verify(key, message, vector.content)


def _verify_payload(vector: Vector) -> None:
    if read_payload(vector.kind, vector.content) != vector.under["reads"]:
        raise MalformedError("payload reads otherwise")


def read_payload(kind: str, payload: bytes) -> dict[str, Any] | None:
    """Return what a KEY or LEDGER payload says; None where not all of it can be read."""
    message: Any
    try:
        message = payloads.parse(st.KeyStatement if kind == "key" else st.LedgerStatement, payload)
        payloads.check_no_unknown_fields(message)
        if not payloads.is_understood(message):
            return None
    except (MalformedError, InvalidError):
        return None
    if kind == "key":
        return {"key": b64(message.key), "retired": message.retired}
    return {
        "origin": message.origin,
        "verifier_keys": list(message.verifier_keys),
        "statement_key": b64(message.statement_key),
        "retention_days": message.retention_days,
        "pruning": [str(message.pruning.kept_from_time_ms), str(message.pruning.start_size)]
        if message.HasField("pruning")
        else None,
        "rotation": _read_rotation(message),
    }


def _read_rotation(message: st.LedgerStatement) -> dict[str, Any] | None:
    """Return what a LEDGER payload says of a rotation, and whether it says nothing else; None: nothing."""
    stated = values.stated_ledger_keys(message)
    one = stated.rotation
    if one is None:
        return None
    return {
        "role": int(one.role), "old_key": b64(one.old_key), "new_key": b64(one.new_key), "reason": one.reason,
        "from_size": str(one.from_size), "new_signature": b64(one.new_signature), "is_alone": stated.is_alone,
    }  # fmt: skip


_VERIFY: dict[str, Callable[[Vector], object]] = {
    "evidence": _verify_evidence,
    "policy": _verify_policy,
    "history": lambda vector: _verify_history(vector).is_complete,
    "receipt": _verify_receipt,
    "note": _verify_note,
    "signature": _verify_signature,
    "key": _verify_payload,
    "ledger": _verify_payload,
}
