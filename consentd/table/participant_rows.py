"""Encode and decode the rows of participants in the policy table."""

from collections.abc import Mapping
from struct import Struct

from consentd.policy import model
from consentd.statements import payloads
from consentd.table.registry import Participant, Registry
from consentd.v1 import statement_pb2 as st

_U32 = Struct(">I")
_MEMBERSHIP = Struct(">IQQ")
"""A membership in a row ``p``: number of the group, and the leaf indexes *from* and *until*."""

ParticipantRow = tuple[int, tuple[tuple[int, int, int], ...], st.ParticipantStatement]
"""Number, memberships (number of the group, from, until) and latest statement of a participant."""


def encode_participant(row: ParticipantRow) -> bytes:
    """Return the value of a row ``p``. Memberships are in the order of group number, then *from*."""
    number, memberships, message = row
    packed = (_MEMBERSHIP.pack(*one) for one in sorted(memberships))
    return b"".join(
        (_U32.pack(number), _U32.pack(len(memberships)), *packed, message.SerializeToString(deterministic=True))
    )


def decode_participant(value: bytes) -> ParticipantRow:
    """Decode the value of a row ``p``."""
    (number,), (count,) = _U32.unpack_from(value), _U32.unpack_from(value, 4)
    end = 8 + count * _MEMBERSHIP.size
    memberships = tuple((group, start, until) for group, start, until in _MEMBERSHIP.iter_unpack(value[8:end]))
    return number, memberships, payloads.parse(st.ParticipantStatement, value[end:])


def with_participant(
    registry: Registry, row: tuple[bytes, bytes], groups: Mapping[str, int], *, generation: int
) -> Registry:
    """Return the registry after a change of a row ``p``. *groups*: those that the participant is in now, by name."""
    names = {**registry.codebook.names, **{number: group for group, number in groups.items()}}
    return registry.with_participant(registered_participant(row, names), groups, generation=generation)


def registered_participant(row: tuple[bytes, bytes], group_names: Mapping[int, str]) -> Participant:
    """Return the participant of a row ``p``, given by key and value. *group_names*: number of a group → its id."""
    key, value = row
    number, memberships, message = decode_participant(value)
    return Participant(
        id=key[1:].decode(), number=number, roles=frozenset(message.roles), rights=frozenset(message.rights),
        memberships=tuple(model.Membership(group_names[group], start, end) for group, start, end in memberships),
        active=message.active, statement=message,
    )  # fmt: skip
