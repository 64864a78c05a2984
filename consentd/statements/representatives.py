"""Verify who acted for a person: the representative of an AUTHORITY entry that is in force and covers the act.

The daemon records a statement under an authority only for these (``sequencer.commands.authorities``). A reader verifies
it if it has the statement of the AUTHORITY. It has no vocabulary, so the end for research, which is the later one,
counts for every consent; ``audit replay`` knows more. That a key of a representative signs nothing but what names its
authority is verified where keys are (``core.key_validity``). Source: ledger-format.md, "Authorities".
"""

from collections.abc import Iterable

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.history import VerifiedEntry
from consentd.core.key_validity import ValidKeys, may_author
from consentd.core.kinds import CONSENTS, EntryKind, Owner
from consentd.errors import SignatureError
from consentd.policy.authority import Authority
from consentd.statements import payloads
from consentd.statements.authorities import ACTS, ActingStatement, authority_value, ends_agents
from consentd.statements.named import named_in
from consentd.v1 import statement_pb2 as st

_READ = CONSENTS | {EntryKind.AUTHORITY, EntryKind.KEY, EntryKind.SERVED, EntryKind.READ}
_Acting = ActingStatement | st.ServedStatement | st.ReadStatement


def verify_representatives(
    entries: Iterable[VerifiedEntry], keys: ValidKeys, *, known: int = 0, earlier: Iterable[VerifiedEntry] = (),
    read_to: int = 0, unread_to: int = 0,
) -> int:  # fmt: skip
    """Verify who acted for the person, as far as the AUTHORITY entries are among *entries*, in the order of the chain.

    An entry that this version does not understand may say something else, so nothing follows from it. The signatures of
    all are verified; a key that is not in *keys* is not determined.

    Returns the *unread_to* of the chain of the first entry, which a reader keeps with what it has read of the chain.

    Args:
        known: how many of *entries*, from the first one, were verified before.
        earlier: of a part of the chain that was verified earlier, without its entries: the KEY and AUTHORITY entries.
        read_to: the seq of the last entry of that part; 0: there is none.
        unread_to: the last seq of that part that may be a KEY which was not there, or not understood; 0: none may be.

    Raises:
        SignatureError: a statement names an authority that is none, was ended, is not in force or does not cover the
            act; another one than the representative made it; or a KEY puts a key in force that the authority does not
            pin, or that its representative did not have.
    """
    entries = tuple(entries)
    own = entries[0].event.tag if entries else b""
    found = _Found(keys, read_to={own: read_to}, unread_to={own: unread_to})
    for one in earlier:
        # The entries between these were read too, so what is not here is no gap.
        if one.statement is not None:
            found.add(one.event, one.statement, _message_of(one), is_new=False)
    for position, one in enumerate(entries):
        message = _message_of(one)
        found.follow(one.event, is_read=message is not None)
        if one.statement is not None:
            found.add(one.event, one.statement, message, is_new=position >= known)
    return found.unread_to[own]


def _message_of(entry: VerifiedEntry) -> Message | None:
    if entry.statement is None or entry.event.kind not in _READ:
        return None
    return payloads.decode_known_payload(entry.event.kind, entry.statement.payload)


class _Found:
    """The authorities of chains, as their entries are read in order.

    *read_to*: tag → the last seq. ``unread_to``: tag → the last seq that may be a KEY which is not here, or not
    understood.
    """

    def __init__(self, keys: ValidKeys, *, read_to: dict[bytes, int], unread_to: dict[bytes, int]) -> None:
        self._keys = keys
        self._seen: dict[tuple[bytes, int], Authority | None] = {}  # None: not an authority; absent: not known
        self._keyed: set[tuple[bytes, int]] = set()  # authorities for which a KEY entry was read
        self._read_to = read_to
        self.unread_to = unread_to

    def follow(self, event: codec.Event, *, is_read: bool) -> None:
        """Note which entries of a chain are not here. *is_read*: the statement of this one is, and is understood."""
        if event.kind == EntryKind.KEY and not is_read:
            self.unread_to[event.tag] = event.seq
        elif event.seq != self._read_to.get(event.tag, 0) + 1:
            self.unread_to[event.tag] = event.seq - 1
        self._read_to[event.tag] = event.seq

    def add(self, event: codec.Event, statement: codec.Statement, message: Message | None, *, is_new: bool) -> None:
        if event.kind != EntryKind.AUTHORITY:
            self._seen[event.tag, event.seq] = None
        if isinstance(message, st.AuthorityStatement):
            self._add_authority(event, message)
            return
        if message is None:
            return
        named = int(getattr(message, "authority_seq", 0))
        at = event.tag, named
        if not named or (named < event.seq and at not in self._seen):
            return
        authority = self._seen.get(at)
        if authority is None:
            raise SignatureError(f"statement rests on no authority: seq `{event.seq}`")
        if isinstance(message, st.KeyStatement):
            if is_new:
                is_first = at not in self._keyed and self.unread_to.get(event.tag, 0) < named
                _verify_key(event, message, authority, is_first=is_first)
            self._keyed.add(at)
        elif isinstance(message, _Acting) and is_new:
            self._verify_act(event, statement, message, authority)

    def _add_authority(self, event: codec.Event, message: st.AuthorityStatement) -> None:
        if message.ended:
            self._seen[event.tag, event.seq] = None
            self._end(event, event.ref)
            return
        if ends_agents(message):
            for tag, seq in [at for at, one in self._seen.items() if one is not None and one.is_agent]:
                if tag == event.tag:
                    self._end(event, seq)
        self._seen[event.tag, event.seq] = authority_value(message, time_ms=event.time_ms)

    def _end(self, event: codec.Event, seq: int) -> None:
        ended = self._seen.get((event.tag, seq))
        if ended is not None and not ended.ended_seq:
            self._seen[event.tag, seq] = ended.ended(seq=event.seq, time_ms=event.time_ms)

    def _verify_act(
        self, event: codec.Event, statement: codec.Statement, message: _Acting, authority: Authority
    ) -> None:
        if not (isinstance(message, st.ServedStatement) or authority.has_act(ACTS[event.kind])):
            raise SignatureError(f"statement rests on no authority for this act: seq `{event.seq}`")
        if authority.ended_seq or not authority.start_ms <= event.time_ms < authority.ends.last_ms:
            raise SignatureError(f"statement rests on an authority that is not in force: seq `{event.seq}`")
        if isinstance(message, st.ServedStatement):
            return  # whoever showed the notice states that it was shown to the representative
        if isinstance(message, st.ReadStatement):
            if not (authority.key or message.reader == authority.participant):
                raise SignatureError(f"reading rests on the authority of another representative: seq `{event.seq}`")
            return
        validities, named = self._keys.get(statement.key, ()), named_in(event.kind, event.ref, message)
        if not validities:  # of a single entry: the key is in an entry that is not here
            return
        if authority.key:
            owner, is_named = Owner.REPRESENTATIVE, True
        else:
            attester = message.attestation.attested_by
            owner, is_named = Owner.LEDGER, bool(attester) and attester == authority.participant
        if not is_named or not any(one.owner is owner and may_author(one, event, named) for one in validities):
            raise SignatureError(f"statement rests on an authority of another representative: seq `{event.seq}`")


def _verify_key(event: codec.Event, message: st.KeyStatement, authority: Authority, *, is_first: bool) -> None:
    if not authority.key or (is_first and (message.key != authority.key or message.retired)):
        raise SignatureError(f"key is not the one that the authority pins: seq `{event.seq}`")
    if not message.retired and (authority.ended_seq or event.time_ms >= authority.ends.last_ms):
        raise SignatureError(f"key is of an authority that has ended: seq `{event.seq}`")
