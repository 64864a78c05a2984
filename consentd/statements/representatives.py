"""Verify who acted for a person: the representative of an AUTHORITY entry that is in force and covers the act.

The daemon records a statement under an authority only for these (``sequencer.commands.authorities``). A reader verifies
it if it has the statement of the AUTHORITY. It has no vocabulary, so the end for research, which is the later one,
counts for every consent; ``audit replay`` knows more. Source: ledger-format.md, "Authorities".
"""

from collections.abc import Iterable

from consentd.core import codec
from consentd.core.history import VerifiedEntry
from consentd.core.key_validity import ValidKeys, may_author
from consentd.core.kinds import CONSENTS, EntryKind, Owner
from consentd.errors import SignatureError
from consentd.policy.authority import Authority
from consentd.statements import payloads
from consentd.statements.authorities import ACTS, ActingStatement, authority_value
from consentd.v1 import statement_pb2 as st


def verify_representatives(entries: Iterable[VerifiedEntry], keys: ValidKeys, *, known: int = 0) -> None:
    """Verify who acted for the person, as far as the AUTHORITY entries are among *entries*, in the order of the chain.

    An entry that this version does not understand may say something else, so nothing follows from it. The first *known*
    entries were verified before. The signatures of all are verified.

    Raises:
        SignatureError: a statement names an authority that is none, was ended, is not in force or does not cover the
            act; or another one than the representative attests it.
    """
    seen: dict[tuple[bytes, int], Authority | None] = {}  # None: not an authority; absent: not known
    for position, (event, statement) in enumerate((one.event, one.statement) for one in entries):
        at = event.tag, event.seq
        if statement is None:
            continue
        if event.kind != EntryKind.AUTHORITY:
            seen[at] = None
        message = payloads.decode_known_payload(event.kind, statement.payload) if event.kind in _READ else None
        if isinstance(message, st.AuthorityStatement):
            _add(seen, event, message)
        elif isinstance(message, ActingStatement) and position >= known and message.authority_seq:
            _verify_act(seen, event, statement, message, keys)


_READ = CONSENTS | {EntryKind.AUTHORITY}
_Seen = dict[tuple[bytes, int], Authority | None]


def _add(seen: _Seen, event: codec.Event, message: st.AuthorityStatement) -> None:
    if not message.ended:
        seen[event.tag, event.seq] = authority_value(message, time_ms=event.time_ms)
        return
    seen[event.tag, event.seq] = None
    ended = seen.get((event.tag, event.ref))
    if ended is not None and not ended.ended_seq:
        seen[event.tag, event.ref] = ended.ended(seq=event.seq, time_ms=event.time_ms)


def _verify_act(
    seen: _Seen, event: codec.Event, statement: codec.Statement, message: ActingStatement, keys: ValidKeys
) -> None:
    at = event.tag, message.authority_seq
    if message.authority_seq < event.seq and at not in seen:
        return
    found = seen.get(at)
    by_daemon = any(
        one.owner is Owner.LEDGER and may_author(one, event) for one in keys.get(statement.key, ())
    )
    is_attested = found is not None and by_daemon and message.attestation.attested_by == found.participant
    if found is None or not is_attested or not found.has_act(ACTS[event.kind]):
        raise SignatureError(f"statement rests on no authority of its attester for this act: seq `{event.seq}`")
    if found.ended_seq or not found.start_ms <= event.time_ms < found.ends.last_ms:
        raise SignatureError(f"statement rests on an authority that is not in force: seq `{event.seq}`")
