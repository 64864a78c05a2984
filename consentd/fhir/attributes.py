"""Read the attributes of a provision whose meaning in FHIR is not the meaning of one attribute here.

* ``securityLabel`` is one list in FHIR, and one match is enough. Here it is two attributes: ``level`` for the codes of
  v3-Confidentiality, and ``labels`` for the others (policy.md, rule 9). A list that has both kinds becomes two
  provisions. FHIR calls confidentiality a high-water mark: "R" is about data of R and lower. That is what a permit
  means here. A deny here is about R and higher, as IHE PCF uses it.
* ``action``: ``disclose`` to a recipient is what the recipient does as ``access`` and ``collect``. A permit permits
  these two; a deny denies all three (rule 6).
* ``actor``: an information recipient is an actor here. A custodian, who discloses the data, is a holder here.

In FHIR a nested provision that states a list replaces its parent's list. Here the parts of such a list are attributes
of their own, and each part is inherited. So a nested provision states a part again wherever that part differs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from consentd.fhir import v3
from consentd.fhir.document import Cause
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import DISCLOSE, NO_ROLE
from consentd.fhir.reading import Reading, unique
from consentd.policy.model import ANY, LEVELS, Effect

_RECIPIENT_ACTIONS: Final = ("access", "collect")
"""What the recipient of a disclosure does."""

_PEOPLE: Final = re.compile(r"urn:|#|(.*/)?(Patient|RelatedPerson|Person)\b")
"""References, relative or absolute, that may name a person."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A provision's ``level`` and ``labels``; empty: not stated."""

    level: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of a provision as FHIR reads them, its own or inherited, and what they were read as.

    Attributes:
        confidentialities, labels: the two kinds of codes in ``securityLabel``.
        sensitivity: what a nested provision inherits of ``level`` and ``labels``.
        actions: the codes of ``action``, with ``DISCLOSE`` in place of HL7's code.
        read_actions: what a nested provision inherits of ``actions``.
        is_custodians: whether the list of actors has custodians.
        limits: which of ``purpose``, ``action``, ``actor`` and ``dataPeriod`` the outer provisions state.
        beside: the provisions beside this one, and itself.
        window: the period of the parent provision, as ``read_window`` returns it.
    """

    confidentialities: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sensitivity: Sensitivity = Sensitivity()
    actions: tuple[str, ...] = ()
    read_actions: tuple[str, ...] = ()
    is_custodians: bool = False
    limits: frozenset[str] = frozenset()
    beside: tuple[Element, ...] = ()
    window: tuple[int | None, int | None] = (None, None)


NO_LISTS: Final = Lists()
"""What a root inherits."""


def read_sensitivity(
    element: Element, effect: Effect, above: Lists, reading: Reading
) -> tuple[tuple[Sensitivity, ...], Lists]:
    """Return what a provision states of ``level`` and ``labels``, and the lists for its nested provisions.

    Two results mean that the list has both kinds of codes. The second one is a provision inside of the first.

    Raises:
        InvalidError: a code is not in the mapping.
    """
    lists = above
    if "securityLabel" in element.members:
        codes = reading.codes("labels", element.many("securityLabel"))
        confidentialities = tuple(code for code in LEVELS if code in codes)
        labels = tuple(code for code in codes if code not in LEVELS)
        lists = replace(above, confidentialities=confidentialities, labels=labels)
    _note_sensitivity(lists, effect, reading)
    parts = []
    if lists.labels or not lists.confidentialities:
        parts.append(Sensitivity("", lists.labels))
    if lists.confidentialities:
        parts.append(Sensitivity(lists.confidentialities[-1 if effect is Effect.PERMIT else 0]))
    stated = []
    inherited = above.sensitivity
    for part in parts:
        # What the list does not name, it does not limit. So an inherited limit on it is lifted.
        no_level = "V" if effect is Effect.PERMIT else "U"
        level = part.level or (no_level if inherited.level else "")
        if level and not part.level and effect is Effect.PERMIT and inherited.level != level:
            reading.note("a permit of labels inside a provision with a confidentiality covers every confidentiality")
        labels = part.labels or ((ANY,) if inherited.labels else ())
        wanted = Sensitivity(level, labels)
        stated.append(
            Sensitivity(level if level != inherited.level else "", labels if labels != inherited.labels else ())
        )
        inherited = wanted
    return tuple(stated), replace(lists, sensitivity=inherited)


def _note_sensitivity(lists: Lists, effect: Effect, reading: Reading) -> None:
    """Note where FHIR means more or less than what is imported (policy.md, rule 9)."""
    if lists.confidentialities and lists.labels:
        reading.note("securityLabel names confidentialities and other labels, and one is enough: two provisions")
    if effect is Effect.PERMIT:
        if not lists.confidentialities:
            reading.note("a permit states no confidentiality: it covers the default level of each category, and lower")
        reading.note(
            "a permit covers data with a sensitivity label only if it names the label, the resource, or a category "
            "that has this label"
        )
        if len(lists.confidentialities) > 1:
            reading.note("a permit states several confidentialities: it covers the highest, and lower ones")
    elif lists.confidentialities:
        reading.note(
            f"a deny states confidentiality {lists.confidentialities[0]}: it covers this and higher ones, where FHIR "
            "says lower ones"
        )


def read_actions(element: Element, effect: Effect, above: Lists, reading: Reading) -> tuple[tuple[str, ...], Lists]:
    """Return the actions that a provision states, and the lists for its nested provisions.

    Raises:
        InvalidError: a code is not in the mapping.
    """
    lists = above
    if "action" in element.members:
        lists = replace(above, actions=reading.concepts("actions", element.many("action")))
    actions = lists.actions
    if DISCLOSE in actions:
        parts = _RECIPIENT_ACTIONS if effect is Effect.PERMIT else (*_RECIPIENT_ACTIONS, "disclose")
        actions = unique(code for action in actions for code in (parts if action == DISCLOSE else (action,)))
        if effect is Effect.PERMIT:
            reading.note("a permit to disclose is read as: the recipient may access and collect, and not pass on")
        else:
            reading.note("a deny to disclose is read as a deny to access, to collect and to disclose")
    elif not actions and effect is Effect.PERMIT:
        reading.note("a permit states no action: it covers all but correct")
    stated = actions if actions != above.read_actions else ()
    return stated, replace(lists, read_actions=actions)


def read_actors(element: Element, above: Lists, reading: Reading) -> tuple[tuple[str, ...], tuple[str, ...], Lists]:
    """Return the actors and the holders that a provision states, and the lists for its nested provisions.

    Raises:
        InvalidError: an actor is not in the mapping, has a role that is not in the mapping, or has one that
            does not go with those of the other actors or of the outer provision.
    """
    actors = element.many("actor")
    if not actors:
        return (), (), above
    roles = [_role(actor, reading) for actor in actors]
    held = [actor for actor, role in zip(actors, roles, strict=True) if role != "recipient"]
    received = [actor for actor, role in zip(actors, roles, strict=True) if role == "recipient"]
    # In FHIR one match is enough. Here both attributes must match, which the mapping says of a source and recipients.
    if "custodian" in roles and len(set(roles)) > 1:
        raise refusal(Cause.ROLE, "actors are recipients and custodians in one list", element.at("actor"))
    if not held and above.is_custodians:
        raise refusal(Cause.ROLE, "recipients replace the custodians of an outer provision", element.at("actor"))
    holders = unique(_participant(actor, reading.mapping.holders, "holders", reading) for actor in held)
    recipients = unique(_participant(actor, reading.mapping.actors, "actors", reading) for actor in received)
    if not held:
        return recipients, (), above
    if reading.keepers and not set(holders) <= set(reading.keepers):
        raise refusal(Cause.ROLE, "custodian is not the organisation that keeps the consent", element.at("actor"))
    reading.note("a custodian is read as the holder of the data")
    return recipients or (ANY,), holders, replace(above, is_custodians=True)


def _role(actor: Element, reading: Reading) -> str:
    """Return the role by the mapping. A code counts as the nearest code above it that the mapping has."""
    actor.only("role", "reference")
    roles, role = reading.mapping.roles, actor.one("role")
    if role is None:
        if NO_ROLE in roles:
            return roles[NO_ROLE]
        # R5 allows it. But then the actor may be who receives the data, or who has them.
        raise refusal(Cause.ROLE, f"actor states no role, and [roles] has no line `{NO_ROLE}`", actor.path)
    codings = role.codings()
    found = {roles[key] for key in (v3.nearest(key, roles) for key, _ in codings) if key}
    if not found:
        key, path = codings[0]
        raise refusal(Cause.ROLE, "role is neither recipient (IRCP) nor custodian (CST), nor in [roles]", path, key)
    if len(found) > 1:
        raise refusal(Cause.ROLE, "codings of a role differ in [roles]", role.path)
    return found.pop()


def _participant(actor: Element, table: Mapping[str, str], name: str, reading: Reading) -> str:
    target = actor.one("reference")
    if target is None:
        raise refusal(Cause.UNKNOWN_PARTICIPANT, "actor has no reference", actor.path)
    found = reading.matches(table, target)
    if len(found) != 1:
        reference = reading.reference(target)
        shown = "" if _PEOPLE.match(reference) else reference  # no message names a person
        raise refusal(Cause.UNKNOWN_PARTICIPANT, f"actor has no single match in [{name}]", target.path, shown)
    return found.pop()
