"""Fakes for the import of FHIR: a daemon that keeps consents, and the reports of an import."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases.fhir_consents import MAPPING
from consentd.fhir.importer import ImportResult, Stored, import_paths
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.policy.model import Consent


@dataclass
class FakeWriter:
    """A daemon that keeps consents by person, remembers request ids, and can be made to fail."""

    consents: dict[SubjectReference, list[tuple[str, Consent]]] = field(default_factory=dict)
    receipts: dict[bytes, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    failure: Exception | None = None
    fails_at: int = 0
    enrolled: bool = True
    enrols: bool = False

    def stored(self, subject: SubjectReference) -> list[Stored] | None:
        if not self.enrolled and subject not in self.consents:
            return None
        kept = self.consents.get(subject, [])
        return [Stored(consent.source, consent_id, consent_id not in self.revoked) for consent_id, consent in kept]

    def enrol(self, subject: SubjectReference) -> bool:
        return self.enrols

    def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
        if self.failure is not None and len(self.receipts) >= self.fails_at:
            raise self.failure
        if request_id in self.receipts:
            return self.receipts[request_id], True
        consent_id = f"consent-{len(self.receipts) + 1}"
        self.consents.setdefault(subject, []).append((consent_id, consent))
        self.receipts[request_id] = consent_id
        return consent_id, False

    def revoke(self, subject: SubjectReference, consent_id: str, request_id: bytes) -> None:
        assert request_id not in self.receipts
        self.revoked.add(consent_id)


def reports(
    paths: Iterable[Path], writer: FakeWriter, mapping: FhirMapping = MAPPING, **options: Any
) -> list[tuple[ImportResult, Any]]:
    """Import files as test data; return (result, cause or consent id) of each resource."""
    found = import_paths(paths, mapping, writer, test_data=True, **options)
    return [(one.result, one.cause or one.consent_id) for file in found for one in file.resources]
