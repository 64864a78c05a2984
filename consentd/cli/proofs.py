"""``consentd verify``: verify evidence offline. It calls no daemon, and loads neither gRPC nor protobuf."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_pins, add_verb, read_bytes, read_pins, read_policy
from consentd.cli.out import PROVEN, UNDETERMINED, Out
from consentd.errors import InvalidError, MalformedError

if TYPE_CHECKING:
    from consentd.core.note import NoteVerifier
    from consentd.core.quorum import WitnessPolicy

_HELP = """\
FILE is one of these; its content shows which:
  a receipt stored with --receipt           proves that its leaf is in the ledger
  a C2SP .tlog-proof, with --leaf           proves the same for the leaf that you give
  a checkpoint                              proves that the log signed it
Proven is that the entry is in a tree that the log signed. Not proven is that everyone is shown the same tree, unless
--policy demands cosignatures of witnesses.

example:
  consentd verify grant.receipt --log-key consent.example.org/2025+1f3a…
"""
_PROOF_MARK = b"c2sp.org/tlog-proof@v1"


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "verify", verify, "verify a receipt, a proof or a checkpoint, offline", more=_HELP)
    verb.add_argument("file", type=Path, metavar="FILE", help="the evidence; `-` reads it from stdin")
    verb.add_argument("--leaf", metavar="HEX|FILE", help="the leaf, in hex or in a file")
    add_pins(verb)


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Verify the evidence in a file."""
    from consentd.core.checkpoint import open_checkpoint, parse_proof, verify_proof

    origin, log_key = read_pins(arguments)
    policy = read_policy(arguments)
    content = read_bytes(arguments.file, "evidence")
    index = None
    if content.lstrip()[:1] == b"{":
        leaf, proof, index = _receipt(content)
    elif content.startswith(_PROOF_MARK):
        leaf, proof = _leaf(arguments.leaf), content
    else:
        point, _ = open_checkpoint(content, origin, log_key)
        _verify_witnessed(content, policy, log_key)
        out.answer(
            out.by_language(
                f"증명됨: `{point.origin}`의 체크포인트, 크기 {point.size}",
                f"proven: checkpoint of `{point.origin}` at size {point.size}",
            ),
            verdict="proven", what="checkpoint", origin=point.origin, size=point.size, root=point.root.hex(),
        )  # fmt: skip
        return PROVEN
    point = verify_proof(proof, leaf=leaf, origin=origin, log_verifier=log_key)
    bundle = parse_proof(proof)
    _verify_witnessed(bundle.checkpoint_note, policy, log_key)
    if index is not None and index != bundle.index:
        raise MalformedError(f"receipt has another index than its proof: `{index}` and `{bundle.index}`")
    description, is_known = _describe_leaf(leaf)
    out.answer(
        out.by_language(
            f"증명됨: `{point.origin}`의 크기 {point.size} 원장에서 {bundle.index}번 항목, {description}",
            f"proven: entry {bundle.index} of `{point.origin}` in its tree of {point.size}, {description}",
        ),
        verdict="proven", what="entry", origin=point.origin, size=point.size, root=point.root.hex(), index=bundle.index,
        leaf=description,
    )  # fmt: skip
    if not is_known:
        out.message("the leaf is in the ledger; what it says could not be determined: it is of a later version")
        return UNDETERMINED
    return PROVEN


def _verify_witnessed(checkpoint: bytes, policy: "WitnessPolicy | None", log_key: "NoteVerifier") -> None:
    """Verify that the policy's witnesses cosigned, if a policy is given. Cosignatures of any age count."""
    from consentd.core.quorum import verify_cosigned

    if policy is not None:
        verify_cosigned(checkpoint, policy, now_s=0, max_age_s=None, logs=[log_key])


def _receipt(content: bytes) -> tuple[bytes, bytes, int]:
    try:
        found = json.loads(content)
        found = found.get("receipt", found)
        leaf, proof, index = bytes.fromhex(found["leaf"]), found["proof"].encode(), found["index"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedError("receipt file was not written by this program") from error
    if not proof:
        raise InvalidError("receipt has no proof yet: no checkpoint covered it; complete it with `consentd receipt`")
    if type(index) is not int:
        raise MalformedError("receipt has no index")
    return leaf, proof, index


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
    """Describe a leaf; return whether this version knows its kind, too."""
    from consentd.core import codec
    from consentd.core.kinds import EntryKind, is_known
    from consentd.policy.dates import SEOUL

    try:
        decoded = codec.decode_leaf(leaf)
    except MalformedError as error:
        return str(error), False
    if isinstance(decoded, codec.Seal):
        return f"a seal over {decoded.covers} entries", True
    from datetime import datetime

    try:
        when = f"{datetime.fromtimestamp(decoded.time_ms / 1000, SEOUL):%Y-%m-%d %H:%M:%S} KST"
    except (OverflowError, ValueError, OSError):
        when = f"{decoded.time_ms} ms"
    if not is_known(decoded.kind):
        return f"kind {decoded.kind}, seq {decoded.seq} of its chain, {when}", False
    return f"{EntryKind(decoded.kind).name}, seq {decoded.seq} of its chain, {when}", True
