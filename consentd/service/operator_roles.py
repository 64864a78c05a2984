"""The roles of operators: what an operator's credential is for.

A role belongs to a credential and not to an operator, so one operator can have a token for each kind of work. What a
role may call is in the table of ``roles``. No role reads statements of persons, or asks about them.

There is no role for restoring a backup: that is done on the machine, with the daemon stopped, by whoever can read its
keys.
"""

from collections.abc import Iterable
from enum import StrEnum

from consentd.errors import DeniedError, InvalidError
from consentd.sequencer.commands.callers import SCRAPER_ID
from consentd.v1 import statement_pb2 as st


class OperatorRole(StrEnum):
    """A role. The values are those of the files' lines, and of ``--role``.

    RUN starts, follows and cancels work of the daemon, and reads leaves. READ_METRICS reads all metrics, and follows
    work. ADMINISTER writes the registry, holds and STATUTORY consents, and adds and revokes credentials.
    """

    RUN = "RUN"
    READ_METRICS = "READ_METRICS"
    ADMINISTER = "ADMINISTER"


Roles = frozenset[OperatorRole]
NO_ROLES: Roles = frozenset()
ALL_ROLES: Roles = frozenset(OperatorRole)


def parse_roles(text: str) -> Roles:
    """Parse roles that commas separate. Raises ``InvalidError``: one is unknown, or there twice."""
    names = text.split(",")
    roles = frozenset(role for role in OperatorRole if role in names)
    if len(roles) < len(names):
        raise InvalidError("a role is unknown, or there twice")
    return roles


def format_roles(roles: Roles) -> str:
    """Return roles with commas between them, in the order of the enum; empty: there are none."""
    return ",".join(role for role in OperatorRole if role in roles)


def roles_of_message(numbers: Iterable["st.OperatorRole.ValueType"]) -> Roles:
    """Return the roles with these numbers of ``st.OperatorRole``. Raises ``InvalidError``, as ``parse_roles``."""
    given = list(numbers)
    roles = frozenset(role for role in OperatorRole if _number(role) in given)
    if len(roles) < len(given):
        raise InvalidError("a role is unknown, or there twice")
    return roles


def roles_message(roles: Roles) -> list["st.OperatorRole.ValueType"]:
    """Return the numbers of roles, in the order of the enum."""
    return [_number(role) for role in OperatorRole if role in roles]


def roles_bits(roles: Roles) -> int:
    """Return roles as the bits of a row of the policy table: bit n is the role with number n + 1."""
    return sum(1 << _number(role) - 1 for role in roles)


def check_may_give(giver: Roles, caller: str, roles: Roles) -> None:
    """Check that an operator with the roles *giver* may add a credential of *caller* with *roles*.

    Nobody gives a role that their own credential does not have. A scraper reads what READ_METRICS reads.

    Raises:
        DeniedError: (ROLE_NOT_HELD) the operator does not have them all.
    """
    needed = {OperatorRole.READ_METRICS} if SCRAPER_ID.fullmatch(caller) else roles
    if not needed <= giver:
        missing = ", ".join(sorted(needed - giver))
        raise DeniedError(f"nobody gives a role that their own credential does not have: `{missing}`", "ROLE_NOT_HELD")


def _number(role: OperatorRole) -> "st.OperatorRole.ValueType":
    return st.OperatorRole.Value(f"OPERATOR_ROLE_{role}")
