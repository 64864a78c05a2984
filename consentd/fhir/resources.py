"""Check the structure of a Consent with ``fhir.resources``. Only this module uses that library.

R4 is checked with the R4B models, the oldest that ``fhir.resources`` 8 has: 4.0.1 and 4.3.0 define the same Consent.
The library is imported at the first use, so the base install works without it.
"""

import importlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, quoted


class Release(StrEnum):
    """A FHIR release that a Consent can have."""

    R4 = "r4"
    R5 = "r5"


_MODULES = {Release.R4: "fhir.resources.R4B.consent", Release.R5: "fhir.resources.consent"}


def validate_consent(resource: Mapping[str, object], release: Release, path: str = "") -> None:
    """Check the structure of a Consent: element names, types, cardinalities, formats. Codes are not checked.

    Contained resources are not checked. They are not read either, and their type must not choose a model to load.

    Raises:
        InvalidError: the structure is wrong (``NOT_VALID``; the message has the path and never the value), or the extra
            ``fhir`` is not installed.
    """
    model = _model(release)
    try:
        model.model_validate({name: value for name, value in resource.items() if name != "contained"})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # ``from None``: the text of pydantic's error quotes its input, which may name persons.
        raise InvalidError(f"not a valid {release.upper()} consent: {_first(error, path)}", Cause.NOT_VALID) from None


def _model(release: Release) -> Any:
    try:
        return importlib.import_module(_MODULES[release]).Consent
    except ImportError as error:
        raise InvalidError("fhir import needs the extra `fhir`: pip install 'consentd[fhir]'") from error


def _first(error: Exception, path: str) -> str:
    """Return the path and kind of the first fault that pydantic found."""
    listing = getattr(error, "errors", None)
    faults = listing() if callable(listing) else []
    if not faults:
        return f"at `{path or 'Consent'}`"
    for part in faults[0].get("loc", ()):
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return f"{str(faults[0].get('type', 'fault')).replace('_', ' ')} at {quoted(path)}"
