"""Write and read history files: a whole history with all that proves it, for anybody's program to verify, offline.

What ``LedgerService.GetHistory`` streams, put together as one JSON object::

    {"format": "consentd/history/v1",
     "checkpoint": B64,                the signed note, verbatim
     "consistency": [B64 …],           from the checkpoint held to this one; empty in a file that was saved
     "seal": B64,                      the last leaf of the checkpoint's tree
     "seal_inclusion": [B64 …],
     "chains": [                       the one asked for, then those of its authors' keys
       {"tag": B64, "public_name": TEXT, "count": N, "head": B64, "map_proof": B64, "first_seq": N,
        "entries": [{"leaf": B64, "opening": {"salt": B64, "statement": B64} | null} …]} …]}

B64 is canonical base64 (RFC 4648 section 4, padded): bytes are most of the file, and hexadecimal would make it half as
large again. N is a JSON number that is an integer from 0 to 2^53 - 1. UTF-8 without a byte order mark, at most
``MAX_SIZE`` bytes. Every name must be there, and no other: what a later version adds has another ``format``. A name
that stands twice has its last value, as JSON parsers have it.

Of a person whose chain was pruned it has what the ledger still has, from ``first_seq`` on: what a memory holds of
before cannot be proven from the ledger's word alone, and stays in the memory.

It is all claims, and carries nothing that has to be trusted; but it holds what the person's history says, so keep it
like the records. The verifier in ``clients/typescript`` reads the same file.
"""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from consentd.core import history, note
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof
from consentd.core.quorum import MAX_AHEAD_S, verify_cosigned
from consentd.errors import InvalidError, MalformedError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client import ledger, rpcs
from consentd_client.entries import History
from consentd_client.history import collect_proof, verify_history
from consentd_client.operations import ClientContext, Operation, call_stream, run_blocking
from consentd_client.trust import Trust

FORMAT = "consentd/history/v1"
MAX_SIZE = 384 << 20
"""Most bytes of a file: what the longest stream that a client takes in (256 MiB) comes to."""

_MAX_INTEGER = (1 << 53) - 1
_FILE: Final = frozenset({"format", "checkpoint", "consistency", "seal", "seal_inclusion", "chains"})
_CHAIN: Final = frozenset({"tag", "public_name", "count", "head", "map_proof", "first_seq", "entries"})
_ENTRY: Final = frozenset({"leaf", "opening"})
_OPENING: Final = frozenset({"salt", "statement"})


# -- format and parse -----------------------------------------------------------------------------------------


def format_history(proof: HistoryProof) -> bytes:
    """Format a history proof as a history file."""
    document = {
        "format": FORMAT,
        "checkpoint": _b64(proof.checkpoint),
        "consistency": [_b64(one) for one in proof.consistency],
        "seal": _b64(proof.seal),
        "seal_inclusion": [_b64(one) for one in proof.seal_inclusion],
        "chains": [
            {
                "tag": _b64(chain.tag),
                "public_name": chain.public_name,
                "count": chain.count,
                "head": _b64(chain.head),
                "map_proof": _b64(chain.map_proof),
                "first_seq": chain.first_seq,
                "entries": [_entry_document(entry) for entry in chain.entries],
            }
            for chain in proof.chains
        ],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _entry_document(entry: HistoryEntry) -> dict[str, Any]:
    opening = None
    if entry.opening is not None:
        salt, statement = entry.opening
        opening = {"salt": _b64(salt), "statement": _b64(statement)}
    return {"leaf": _b64(entry.leaf), "opening": opening}


def parse_history(content: bytes) -> HistoryProof:
    """Parse a history file. Claims only; nothing is verified.

    Raises:
        MalformedError: it is not one, or is larger than ``MAX_SIZE``.
    """
    if len(content) > MAX_SIZE:
        raise MalformedError(f"history file is larger than {MAX_SIZE} bytes")
    try:
        read = json.loads(content.decode(), parse_int=_whole_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MalformedError("history file is not JSON in UTF-8") from error
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise MalformedError(f"history file does not say that it is one: its `format` is not `{FORMAT}`")
    file = _object(read, _FILE)
    chains = tuple(_chain(chain) for chain in _list(file, "chains"))
    if not chains:
        raise MalformedError("history has no chain")
    return HistoryProof(
        checkpoint=_bytes(file["checkpoint"]),
        consistency=tuple(map(_bytes, _list(file, "consistency"))),
        seal=_bytes(file["seal"]),
        seal_inclusion=tuple(map(_bytes, _list(file, "seal_inclusion"))),
        chains=chains,
    )


def _chain(value: Any) -> ChainProof:
    chain = _object(value, _CHAIN)
    if not isinstance(chain["public_name"], str):
        raise MalformedError("history file has no text where a name should be")
    return ChainProof(
        tag=_bytes(chain["tag"]),
        public_name=chain["public_name"],
        count=_integer(chain["count"]),
        head=_bytes(chain["head"]),
        map_proof=_bytes(chain["map_proof"]),
        first_seq=_integer(chain["first_seq"]),
        entries=tuple(map(_entry, _list(chain, "entries"))),
    )


def _entry(value: Any) -> HistoryEntry:
    entry = _object(value, _ENTRY)
    leaf = _bytes(entry["leaf"])
    if entry["opening"] is None:
        return HistoryEntry(leaf, None)
    opening = _object(entry["opening"], _OPENING)
    return HistoryEntry(leaf, (_bytes(opening["salt"]), _bytes(opening["statement"])))


def _object(value: Any, names: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        raise MalformedError(f"history file has no object of these names: `{' '.join(sorted(names))}`")
    return value


def _list(parent: dict[str, Any], name: str) -> list[Any]:
    value = parent[name]
    if not isinstance(value, list):
        raise MalformedError(f"history file has no list in `{name}`")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise MalformedError("history file has something else where base64 should be")
    return note.decode_base64(value)


def _integer(value: Any) -> int:
    # JSON has one kind of number: 1.0 and 1e0 are the integer 1 for every parser that does not keep the text.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= _MAX_INTEGER and value == int(value)):
        raise MalformedError("history file has no integer from 0 to 2^53 - 1 where one should be")
    return int(value)


def _whole_number(text: str) -> int | float:
    # Digits without end are no integer that counts, and no error where a name that stands twice has another value.
    return int(text) if len(text) <= len(str(_MAX_INTEGER)) else float(text)


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _b64(content: bytes) -> str:
    return note.encode_base64(content)


# -- verification ---------------------------------------------------------------------------------------------


def open_history(
    content: bytes,
    *,
    trust: Trust,
    name: str = "",
    tag: bytes = b"",
    now_ms: int | None = None,
    max_age_s: int | None = None,
) -> History:
    """Read a history file and verify all of it, offline. A file may be old: it says up to when it is whole.

    Args:
        content: the file.
        trust: what was pinned. Its witnesses, where there are any, must have cosigned, not before the seal.
        name: the public chain that it must be of.
        tag: the person's tag that it must be of, 32 bytes. With neither: whosever it is; look at the result.
        now_ms: the reader's clock; the seal may not be ahead of it. None: no time is compared with it.
        max_age_s: how old a cosignature may be that counts; None: any age.

    Raises:
        MalformedError: it is not a history file, or a part of it not what it should be.
        SignatureError: log, author or too few witnesses have signed.
        ProofError: it is not whole, of another chain, or of a time that has not come yet.
    """
    proof = parse_history(content)
    if not (name or tag):
        name = proof.chains[0].public_name
    # The witnesses' word is held against another clock here than in a history that is being asked for.
    found, _ = verify_history(proof, trust=replace(trust, policy=None), name=name, tag=tag)
    if now_ms is not None and found.seal_time_ms > now_ms + 1000 * MAX_AHEAD_S:
        raise ProofError("history is sealed at a time that has not come yet")
    if trust.policy is not None:
        verify_cosigned(
            proof.checkpoint,
            trust.policy,
            now_s=(now_ms or 0) // 1000,
            max_age_s=max_age_s,
            seal_time_ms=found.seal_time_ms,
            logs=[trust.log_key],
        )
    return found


# -- from the daemon ------------------------------------------------------------------------------------------


def history_file(context: ClientContext, subject: pb.Subject, *, tag: bytes = b"") -> Operation[tuple[History, bytes]]:
    """Read a person's history as ``ledger.history`` does, then all of it again, whole, as a file.

    Returns the history that the file proves, with ``is_new`` as for what is remembered; and the file. Entries that are
    remembered, and were pruned since, are in neither.

    Raises:
        VerificationError: it is not whole, not genuine, or takes back what is remembered.
        ConsentdError: it could not be read, or nothing is pinned.
    """
    found = yield from ledger.history(context, subject, tag=tag)
    return (yield from _whole(context, ls.GetHistoryRequest(subject=subject), found))


def public_history_file(context: ClientContext, name: str) -> Operation[tuple[History, bytes]]:
    """Read the history of a public chain likewise.

    Raises:
        VerificationError: as ``history_file``.
        ConsentdError: it could not be read, or nothing is pinned.
    """
    found = yield from ledger.public_history(context, name)
    return (yield from _whole(context, ls.GetHistoryRequest(public_name=name), found))


def _whole(context: ClientContext, request: ls.GetHistoryRequest, found: History) -> Operation[tuple[History, bytes]]:
    """Read the whole of a history that was verified, at this checkpoint or a later one, and make the file of it.

    Asked for again because what continues a memory does not stand alone: the chains of keys that signed only what is
    remembered are not sent with it.
    """
    trust, now_ms = context.pinned(), context.now_ms()
    request.known_tree_size = found.checkpoint.size
    pieces = yield from call_stream(context, rpcs.GET_HISTORY, request)
    proof = collect_proof(pieces)
    history.verify_sealed_checkpoint(proof, origin=trust.origin, log_verifier=trust.log_key, held=found.checkpoint)
    content = format_history(replace(proof, consistency=()))
    if len(content) > MAX_SIZE:
        raise InvalidError(f"history is longer than a file may be: `{len(content)}` bytes")

    def reopen() -> History:
        # What is kept is what was verified: the file's own bytes, as its reader will find them.
        return open_history(content, trust=trust, name=found.name, tag=found.tag, now_ms=now_ms)

    whole = yield from run_blocking(reopen)
    _check_continues(found, whole)
    known = max((entry.seq for entry in found.entries if not entry.is_new), default=0)
    entries = tuple(replace(entry, is_new=entry.seq > known) for entry in whole.entries)
    return replace(whole, entries=entries), content


def _check_continues(found: History, whole: History) -> None:
    """Check that what was just read is in the file, unless it was pruned in between."""
    if not found.entries:
        return
    last = found.entries[-1].event
    is_pruned = bool(whole.entries) and whole.entries[0].seq > last.seq
    # Each leaf names the one before it: where the last of them agree, all do.
    if not is_pruned and last not in [entry.event for entry in whole.entries]:
        raise ProofError("history does not continue the one that was read just before")
