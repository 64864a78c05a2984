"""Define an authority: who may act for a person, and until when the permits last that were given under it.

An authority ends at one instant for all purposes but research, and at another one for research (policy.md, rule 8). So
a permit that was given under it may end earlier for some of its purposes than for others. The ends are computed when a
consent is compiled; nothing happens at these instants.
"""

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from consentd.errors import MalformedError
from consentd.policy.dates import birthday_ms
from consentd.policy.model import OPEN_END_MS
from consentd.policy.rows import ALL_64
from consentd.policy.vocabulary import Vocabulary

CONSENT_AGE: Final = 14
"""Age, in completed years, at which a minor acts alone (PIPA 22-2(1))."""

RESEARCH_AGE: Final = 18
"""The same for research (Bioethics and Safety Act 16(2))."""

LEGAL_GUARDIAN: Final = 1
"""The capacity of a legal representative (``AuthorityCapacity``)."""

AGENT: Final = 2
"""The capacity of who acts by a power of attorney (``AuthorityCapacity``)."""

RESEARCH_PURPOSE: Final = "HRESCH"
"""Research is this purpose and all purposes below it."""

_ROW: Final = Struct(">QQQQQBB")
_KEY, _DEAD = 1, 2  # flags of a row: it names the representative by a key; the person is dead


@dataclass(frozen=True, slots=True)
class Ends:
    """When permits end that rest on an authority: for research purposes, and for all others. UTC milliseconds."""

    other_ms: int = OPEN_END_MS
    research_ms: int = OPEN_END_MS

    @property
    def last_ms(self) -> int:
        """The later of the two."""
        return max(self.other_ms, self.research_ms)

    def until(self, time_ms: int) -> "Ends":
        """Return the ends, none of which is later than *time_ms*."""
        return Ends(min(self.other_ms, time_ms), min(self.research_ms, time_ms))

    def of(self, purposes: int, vocabulary: Vocabulary) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return when a permit of *purposes*, a mask, ends for the last of them; and which end earlier, and when."""
        if self.other_ms == self.research_ms:
            return self.other_ms, ()
        research = research_mask(vocabulary)
        if not purposes & research:
            return self.other_ms, ()
        if not purposes & ~research:
            return self.research_ms, ()
        if self.other_ms < self.research_ms:
            return self.research_ms, ((purposes & ~research, self.other_ms),)
        return self.other_ms, ((purposes & research, self.research_ms),)


NO_ENDS: Final = Ends()
"""The ends of permits that the person gave."""


def minor_ends(birth_date: str) -> Ends:
    """Return the ends of an authority for a minor who was born on a date. Raises as ``birthday_ms``."""
    return Ends(max(0, birthday_ms(birth_date, CONSENT_AGE)), max(0, birthday_ms(birth_date, RESEARCH_AGE)))


def research_mask(vocabulary: Vocabulary) -> int:
    """Return the mask of the research purposes of a vocabulary; 0: it has none."""
    return vocabulary.purpose.below.get(RESEARCH_PURPOSE, 0) & ALL_64


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority as the policy table keeps it. It lacks the birth date, from which the ends follow.

    Attributes:
        participant: id of the representative; empty: a key is the representative's.
        key: the key of a representative who is a natural person, 32 bytes; b"": a participant is the representative.
        acts: mask of the acts; act *n* is bit *n*.
        start_ms: from when the representative may act, UTC milliseconds.
        ends: until when, and until when permits last.
        capacity: of the representative, an ``AuthorityCapacity``.
        ended_seq: seq of the entry that ended it; 0: none did.
        is_of_dead: the reason is that the person is dead.
    """

    participant: str
    acts: int
    start_ms: int
    ends: Ends
    capacity: int = 0
    ended_seq: int = 0
    key: bytes = b""
    is_of_dead: bool = False

    @property
    def is_agent(self) -> bool:
        """Whether it is a power of attorney: the person may end it, and it ends with the person's death."""
        return self.capacity == AGENT

    def has_act(self, act: int) -> bool:
        """Return whether the representative may do an act."""
        return bool(self.acts >> act & 1)

    def ended(self, *, seq: int, time_ms: int) -> "Authority":
        """Return the authority after entry *seq* ended it at *time_ms*."""
        return replace(self, ends=self.ends.until(time_ms), ended_seq=seq)

    def encode(self) -> bytes:
        """Return the value of the table's row."""
        ends = self.ends
        numbers = self.acts, self.start_ms, ends.other_ms, ends.research_ms, self.ended_seq, self.capacity
        flags = (_KEY if self.key else 0) | (_DEAD if self.is_of_dead else 0)
        return _ROW.pack(*numbers, flags) + (self.key or self.participant.encode())


NOTHING: Final = Authority("", 0, 0, Ends(0, 0))
"""What an AUTHORITY gives that this version does not understand: a field that it does not know may be a limit."""


def decode_authority(value: bytes) -> Authority:
    """Decode the value of a row. Raises ``MalformedError`` if it is no such value."""
    if len(value) < _ROW.size:
        raise MalformedError("authority is cut short")
    acts, start_ms, other_ms, research_ms, ended_seq, capacity, flags = _ROW.unpack_from(value)
    named, ends, is_of_dead = value[_ROW.size :], Ends(other_ms, research_ms), bool(flags & _DEAD)
    if flags & ~(_KEY | _DEAD):
        raise MalformedError("authority has an unknown flag")
    if flags & _KEY:
        return Authority("", acts, start_ms, ends, capacity, ended_seq, named, is_of_dead)
    try:
        return Authority(named.decode(), acts, start_ms, ends, capacity, ended_seq, is_of_dead=is_of_dead)
    except UnicodeDecodeError:
        raise MalformedError("authority names a representative that is no text") from None
