"""The parts of HL7 v3 hierarchies that an import follows, as data: code → its parent.

Sources: HL7 Terminology (terminology.hl7.org), value set v3-ParticipationInformationRecipient and code system
v3-ActReason below PurposeOfUse. Codes that the default vocabulary has are not repeated here.
"""

from collections.abc import Container, Iterator
from typing import Final

from consentd.fhir.mapping import SYSTEMS

_ROLES: Final = dict.fromkeys(("NOT", "PRCP", "REFB", "REFT", "TRC"), "IRCP")
_OPERATIONS = (
    "DONAT", "FRAUD", "GOV", "HACCRED", "HCOMPL", "HDECD", "HDIRECT", "HDM", "HOUTCOMS", "HPRGRP", "HSYSADMIN",
    "MEMADMIN", "MILCDM", "PATSFTY", "PERFMSR", "RECORDMGT", "SYSDEV",
)  # fmt: skip
_PURPOSES: Final = {
    **dict.fromkeys(_OPERATIONS, "HOPERAT"),
    **dict.fromkeys(("LABELING", "METAMGT"), "HSYSADMIN"),
    **dict.fromkeys(("COVAUTH", "COVERAGE", "REMITADV"), "HPAYMT"),
    **dict.fromkeys(("ELIGDTRM", "ENROLLM", "MILDCRG"), "COVERAGE"),
    "PRECLINTRCH": "CLINTRCH",
}
_PARENTS: Final = {
    f"{SYSTEMS[system]}|{code}": f"{SYSTEMS[system]}|{parent}"
    for system, parents in (("v3-ParticipationType", _ROLES), ("v3-ActReason", _PURPOSES))
    for code, parent in parents.items()
}


def nearest(key: str, known: Container[str]) -> str:
    """Return *key* (``system|code``), or the nearest code above it, that is in *known*; empty if none is."""
    return next((one for one in _upwards(key) if one in known), "")


def _upwards(key: str) -> Iterator[str]:
    while key:
        yield key
        key = _PARENTS.get(key, "")
