"""``consentd receipt`` and ``verify``; and the files that other verbs write with --receipt.

A receipt proves that an entry is in the ledger. ``verify`` calls no daemon, and loads neither gRPC nor protobuf.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_pins, add_write
from consentd.cli.options import (
    Verbs,
    add_memory,
    add_verb,
    open_client,
    parsing,
    read_bytes,
    read_pins,
    read_policy,
    read_trust,
    report_log_keys,
)
from consentd.cli.out import DONE, PROVEN, UNDETERMINED, Out, counted
from consentd.cli.outputs import output_path, write_evidence
from consentd.core import codec, merkle
from consentd.core.checkpoint import (
    is_signed_by,
    open_checkpoint,
    parse_checkpoint,
    parse_proof,
    verify_known,
    verify_proof,
)
from consentd.core.evidence import parse_evidence
from consentd.core.kinds import EntryKind, is_known
from consentd.core.note import NoteVerifier, Verifier, format_vkey, parse_note, parse_vkey
from consentd.core.quorum import WitnessPolicy, verify_cosigned
from consentd.errors import InvalidError, MalformedError, ProofError, UnknownKeyError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd_client.receipts import ReducedReceipt, WriteOptions

_RECEIPT_HELP = """\
--save FILE writes the proof as a C2SP .tlog-proof, and the proven leaf to FILE.leaf, for other programs:
`consentd-verify receipt FILE FILE.leaf` (clients/typescript), `consentd verify FILE --leaf FILE.leaf`. If the receipt
already has its proof, no daemon is called.
"""
_VERIFY_HELP = """\
FILE is one of these; its content shows which:
  a receipt stored with --receipt           proves that its leaf is in the ledger
  a C2SP .tlog-proof, with --leaf           proves the same for the leaf that you give
  a checkpoint                              proves that the log signed it
If the log replaced its key, --rotations leads from the pinned key to the other one, in either direction. It is a file
that `consentd history --save` wrote. The memory of a client that followed the rotations, --memory, has the key too.
Without both, nothing is determined of a checkpoint by another key of the log.
Proven is that the entry is in a tree that the log signed. Not proven is that everyone is shown the same tree, unless
--policy demands cosignatures of witnesses.

example:
  consentd verify grant.receipt --log-key consent.example.org/2025+1f3a…
"""
_PROOF_MARK = b"c2sp.org/tlog-proof@v1"


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "receipt", receipt, add_write, more=_RECEIPT_HELP)
    verb.add_argument("file", type=Path, metavar="FILE", help="a receipt stored with --receipt")
    verb.add_argument("--save", type=output_path, metavar="FILE", help="write the proof, and the leaf to FILE.leaf")
    verb = add_verb(verbs, "verify", verify, add_pins, more=_VERIFY_HELP)
    verb.add_argument("file", type=Path, metavar="FILE", help="the evidence; `-` reads it from stdin")
    verb.add_argument("--leaf", metavar="HEX|FILE", help="the leaf, in hex or in a file")
    add_memory(verb, "a client's memory; if the client followed rotations of the log key, it has the key they led to")
    verb.add_argument(
        "--rotations", type=Path, metavar="FILE",
        help="evidence of the same ledger, which leads from the pinned log key to the one that signed",
    )  # fmt: skip


def add_receipt(verb: argparse.ArgumentParser) -> None:
    """Add the options for the receipt's file and for the request_id."""
    verb.add_argument("--receipt", type=output_path, metavar="FILE", help="wait for the proof, and store the receipt")
    verb.add_argument(
        "--request-id", type=read_request_id, metavar="HEX",
        help="16 bytes in hex; repeat a write of unknown outcome with the same HEX (default: random)",
    )  # fmt: skip


def read_request_id(text: str) -> bytes:
    """Parse a request_id from hex; an argparse type."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16:
        raise argparse.ArgumentTypeError("not 16 bytes in hex")
    return found


def write_options(arguments: argparse.Namespace) -> "WriteOptions":
    """Return the client's options for a write, as the arguments give them."""
    return {"published": arguments.receipt is not None, "request_id": arguments.request_id}


def receipt_fields(receipt: "ReducedReceipt") -> dict[str, object]:
    """Return a receipt's fields, as a file has them."""
    from consentd_client import Receipt

    fields: dict[str, object] = {
        "index": receipt.index, "leaf_hash": receipt.leaf_hash.hex(), "proof": receipt.proof.decode(),
        "replayed": receipt.replayed,
    }  # fmt: skip
    if isinstance(receipt, Receipt):
        fields["leaf"] = receipt.leaf.hex()
    return fields


def store_receipt(
    arguments: argparse.Namespace, out: Out, receipt: "ReducedReceipt", *, beside: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Store a receipt if --receipt names a file; return the receipt's fields for ``--json``.

    *beside*: other fields that the file has.
    """
    fields = {**(beside or {}), **receipt_fields(receipt)}
    if arguments.receipt is not None:
        from consentd.audit.sources import write_file

        # ``write_file`` replaces the file only after the new one is written completely: the disk may be full, and
        # the old file may be the only copy of this receipt.
        write_file(arguments.receipt, json.dumps(fields, ensure_ascii=False).encode() + b"\n", what="receipt")
        missing = "" if receipt.proof else " without a proof: no checkpoint covered it in time"
        out.message(f"receipt stored{missing}: `{arguments.receipt}`; `consentd verify` verifies it")
    return fields


def receipt(arguments: argparse.Namespace, out: Out) -> int:
    """Read the proof that a stored receipt lacks, and store it."""
    from consentd_client import Receipt, ReducedReceipt, verify_inclusion

    if str(arguments.file) == "-":
        raise InvalidError("receipt is completed in its file, so it cannot be read from stdin")
    content = read_bytes(arguments.file, "receipt")
    with parsing("receipt", arguments.file):
        stored = _parse_receipt(content, may_be_answer=False)
        if stored.proof:
            parse_proof(stored.proof)
    found = ReducedReceipt(
        index=stored.index, leaf_hash=stored.leaf_hash, proof=stored.proof, checkpoint=None, replayed=False
    )
    if stored.leaf:
        event = codec.decode_leaf(stored.leaf)
        if not isinstance(event, codec.Event):
            raise MalformedError("receipt is of a seal")
        found = Receipt(
            index=stored.index, leaf_hash=stored.leaf_hash, leaf=stored.leaf, event=event, tree_size=0,
            proof=stored.proof, checkpoint=None, replayed=False,
        )  # fmt: skip
    if stored.proof and arguments.save is not None:
        point = verify_inclusion(stored.leaf_hash, stored.proof, read_trust(arguments), index=stored.index)
        found = replace(found, checkpoint=point)
    else:
        with open_client(arguments) as client:
            found = client.get_receipt(found)
    arguments.receipt = arguments.file
    fields = store_receipt(arguments, out, found, beside=json.loads(content))
    if arguments.save is not None and found.proof:
        write_evidence(arguments.save, found.proof, "proof")
        out.message(f"proof saved: `{arguments.save}`")
        if isinstance(found, Receipt):
            beside = arguments.save.with_name(arguments.save.name + ".leaf")
            write_evidence(beside, found.leaf, "leaf")
            out.message(f"its leaf saved: `{beside}`")
    out.answer(f"entry {found.index}", type="receipt", **fields)
    return DONE if found.proof else UNDETERMINED


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a receipt, a proof or a checkpoint, offline."""
    origin, log_key = read_pins(arguments)
    policy = read_policy(arguments)
    content = read_bytes(arguments.file, "evidence")
    index = None
    with parsing("receipt, .tlog-proof or checkpoint", arguments.file):
        _check_format(content)
    if content.lstrip()[:1] == b"{":
        stored = _parse_receipt(content, may_be_answer=True)
        leaf, leaf_hash, proof, index = stored.leaf, stored.leaf_hash, stored.proof, stored.index
        if not proof:
            raise InvalidError("receipt has no proof yet; `consentd receipt` completes it once a checkpoint covers it")
    elif content.startswith(_PROOF_MARK):
        leaf, proof = _leaf(arguments.leaf), content
        leaf_hash = merkle.leaf_hash(leaf)
    else:
        log_key, log_keys = _follow(arguments, content, origin, log_key, out)
        point, _ = open_checkpoint(content, origin, log_key)
        _verify_witnessed(content, policy, log_key)
        out.answer(
            f"증명됨: `{point.origin}`의 체크포인트, 크기 {point.size}",
            f"proven: checkpoint of `{point.origin}` at size {point.size}",
            verdict="proven", what="checkpoint", origin=point.origin, size=point.size, root=point.root.hex(),
            log_key=format_vkey(log_key), log_keys=log_keys,
        )  # fmt: skip
        return PROVEN
    bundle = parse_proof(proof)
    log_key, log_keys = _follow(arguments, bundle.checkpoint_note, origin, log_key, out)
    point = verify_proof(proof, leaf_hash=leaf_hash, origin=origin, log_verifier=log_key)
    _verify_witnessed(bundle.checkpoint_note, policy, log_key)
    if index is not None and index != bundle.index:
        raise ProofError(f"receipt has another index than its proof: `{index}` and `{bundle.index}`")
    description, is_readable = _describe_leaf(leaf) if leaf else ("a refused access: its leaf is not shown", True)
    out.answer(
        f"증명됨: `{point.origin}`의 크기 {point.size} 원장에서 {bundle.index}번 항목, {description}",
        f"proven: entry {bundle.index} of `{point.origin}` in its tree of {point.size}, {description}",
        verdict="proven", what="entry", origin=point.origin, size=point.size, root=point.root.hex(), index=bundle.index,
        leaf=description, log_key=format_vkey(log_key), log_keys=log_keys,
    )  # fmt: skip
    if not is_readable:
        out.message("the leaf is in the ledger; what it says could not be determined: it is of a later version")
        return UNDETERMINED
    return PROVEN


def _follow(
    arguments: argparse.Namespace, checkpoint: bytes, origin: str, log_key: Verifier, out: Out
) -> tuple[Verifier, list[dict[str, object]]]:
    """Return the log key that signs checkpoints of this size, and the log's keys for ``--json``.

    Raises as ``verify_evidence`` for the file of ``--rotations``; without it, as ``_known_key``.
    """
    if arguments.rotations is None:
        return _known_key(arguments, checkpoint, log_key, out), []
    # Imported only here, because this module loads protobuf.
    from consentd.statements.evidence import verify_evidence

    with parsing("evidence", arguments.rotations):
        evidence = parse_evidence(read_bytes(arguments.rotations, "evidence"))
    found = verify_evidence(evidence, origin=origin, log_verifier=log_key, policy=read_policy(arguments))
    if found.histories.ledger_keys is None:
        raise InvalidError("file of rotations does not have chain `ledger`: save a history")
    size = parse_checkpoint(parse_note(checkpoint).text).size
    keys = found.histories.ledger_keys.replaced_log_keys()
    log_keys = report_log_keys(out, keys, is_followed=False)
    vkey = next((one.vkey for one in reversed(keys) if one.from_size <= size), None)
    return log_key if vkey is None else parse_vkey(vkey), log_keys


def _known_key(arguments: argparse.Namespace, checkpoint: bytes, log_key: Verifier, out: Out) -> Verifier:
    """Return the pinned log key, or the one to which the memory says that rotations led, if that one has signed.

    Raises:
        UnknownKeyError: neither has signed.
    """
    try:
        verify_known(checkpoint, log_key)
    except UnknownKeyError as error:
        reached = "" if arguments.memory is None else _reached(arguments.memory, log_key)
        if not reached or not is_signed_by(parse_note(checkpoint).unverified, parse_vkey(reached)):
            error.add_note(
                "--rotations FILE leads to the other key: `consentd history … --save FILE` writes that file. Or give "
                "--memory of a client that has followed the rotations"
            )
            raise
        out.message(f"log key `{format_vkey(log_key)}` was replaced by `{reached}`, says the memory: pin that one")
        return parse_vkey(reached)
    return log_key


def _reached(memory: Path, log_key: Verifier) -> str:
    """Return the log key to which rotations led a client from *log_key*; empty: its memory has none."""
    # Imported only here, because the package loads gRPC.
    from consentd_client import FileMemory

    return FileMemory(memory).log_key(format_vkey(log_key))


def _check_format(content: bytes) -> None:
    """Raise MalformedError if *content* is no file that this verb verifies. Nothing is verified here."""
    if content.lstrip()[:1] == b"{":
        stored = _parse_receipt(content, may_be_answer=True)
        if stored.proof:
            parse_checkpoint(parse_note(parse_proof(stored.proof).checkpoint_note).text)
    elif content.startswith(_PROOF_MARK):
        parse_checkpoint(parse_note(parse_proof(content).checkpoint_note).text)
    else:
        parse_checkpoint(parse_note(content).text)


def _verify_witnessed(checkpoint: bytes, policy: WitnessPolicy | None, log_key: NoteVerifier) -> None:
    """Verify that a quorum of the policy's witnesses cosigned, at any time; if *policy* is None, do nothing."""
    if policy is not None:
        verify_cosigned(checkpoint, policy, now_s=0, max_age_s=None, logs=[log_key])


@dataclass(frozen=True, slots=True)
class _StoredReceipt:
    """A receipt as ``store_receipt`` wrote it.

    ``leaf`` is empty in a reduced receipt. ``proof`` is empty if no checkpoint covered the entry yet.
    """

    index: int
    leaf_hash: bytes
    leaf: bytes
    proof: bytes


def _parse_receipt(content: bytes, *, may_be_answer: bool) -> _StoredReceipt:
    """Parse a stored receipt. If *may_be_answer*, a verb's --json answer that contains a receipt is accepted too."""
    try:
        found = json.loads(content)
        found = found.get("receipt", found) if may_be_answer else found
        index, leaf, proof = found["index"], bytes.fromhex(found.get("leaf", "")), found["proof"].encode()
        leaf_hash = bytes.fromhex(found["leaf_hash"]) if "leaf_hash" in found else merkle.leaf_hash(leaf)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedError("receipt file was not written by this program") from error
    if type(index) is not int:
        raise MalformedError("receipt has no index")
    if leaf and merkle.leaf_hash(leaf) != leaf_hash:
        raise ProofError("receipt has another leaf's hash")
    return _StoredReceipt(index, leaf_hash, leaf, proof)


def _leaf(given: str | None) -> bytes:
    if not given:
        raise InvalidError("proof does not contain its leaf: give the leaf with --leaf, in hex or in a file")
    try:
        return bytes.fromhex(given)
    except ValueError:
        content = read_bytes(Path(given), "leaf")
    try:
        return bytes.fromhex(content.decode("ascii").strip())
    except (ValueError, UnicodeDecodeError):
        return content


def _describe_leaf(leaf: bytes) -> tuple[str, bool]:
    """Describe a leaf in words; return the description, and whether this version knows the leaf's kind."""
    try:
        decoded = codec.decode_leaf(leaf)
    except MalformedError as error:
        return str(error), False
    if isinstance(decoded, codec.Seal):
        return f"a seal over {counted(decoded.covers, 'entries')}", True
    kind = EntryKind(decoded.kind).name if is_known(decoded.kind) else f"kind {decoded.kind}"
    return f"{kind}, seq {decoded.seq} of its chain, {format_instant(decoded.time_ms)}", is_known(decoded.kind)
