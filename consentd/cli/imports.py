"""``consentd import fhir``: grant the consents of FHIR files, and report on each file."""

import argparse
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consentd.cli.options import Verbs, add_daemon, add_verb, open_client
from consentd.cli.out import DONE, REFUSED, Out
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError

if TYPE_CHECKING:
    from consentd.fhir.mapping import SubjectReference
    from consentd.policy.model import Consent
    from consentd_client import Client, Subject

_HELP = """\
A file is imported whole or not at all: if one of its resources is refused, none is written. Importing a file again
changes nothing. With --dry-run no daemon is called and nothing is written; codes are checked against the default
vocabulary.

exit status: 0 all imported or unchanged, 1 something was refused, 2 an error; run it again to import the rest.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb ``import``."""
    verb = verbs.add_parser("import", help="import consents from other systems: `import fhir`")
    under = verb.add_subparsers(title="formats", metavar="FORMAT", required=True)
    one = add_verb(under, "fhir", import_fhir, add_daemon, more=_HELP)
    one.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files, or directories of *.json")
    one.add_argument("--mapping", type=Path, metavar="FILE", help="how codes are mapped; as in ops/fhir-mapping.toml")
    one.add_argument("--test-data", action="store_true", help="import resources labelled as test data too")
    one.add_argument("--enrol", action="store_true", help="enrol persons who are not enrolled")
    one.add_argument("--dry-run", action="store_true", help="only report what would be imported")


def import_fhir(arguments: argparse.Namespace, out: Out) -> int:
    """Import FHIR Consents, R4 or R5, and Bundles of them."""
    from consentd.fhir import importer
    from consentd.fhir.mapping import load_mapping, parse_mapping
    from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
    from consentd.statements import values

    refused, path = 0, arguments.mapping
    with open_client(arguments) as client:
        vocabulary = DEFAULT_VOCABULARY
        if not arguments.dry_run:
            vocabulary = values.vocabulary_value(client.get_vocabulary())
        mapping = load_mapping(path, vocabulary) if path else parse_mapping("", vocabulary)
        writer = _DryRun() if arguments.dry_run else _Writer(client, enrol=arguments.enrol)
        files = importer.find_files(arguments.paths)
        reports = importer.import_paths(files, mapping, writer, test_data=arguments.test_data)
        with out.progress("importing") as progress:
            for number, one in enumerate(reports, 1):
                refused += one.refused
                out.lines(importer.format_json(one) if out.as_json else importer.format_text(one))
                progress(number, len(files))
    if not files:
        out.message("no file was found")
    return REFUSED if refused else DONE


class _DryRun:
    """The writer that the importer uses for --dry-run. It writes nothing."""

    def existing_sources(self, subject: "SubjectReference") -> AbstractSet[str]:
        return frozenset()

    def grant(self, subject: "SubjectReference", consent: "Consent", request_id: bytes) -> tuple[str, bool]:
        return "(dry run)", False


class _Writer:
    """The writer with which the importer records consents at a daemon."""

    def __init__(self, client: "Client", *, enrol: bool) -> None:
        self._client = client
        self._enrol = enrol

    def existing_sources(self, subject: "SubjectReference") -> AbstractSet[str]:
        person = self._person(subject)
        try:
            records = list(self._client.list_consents(person, include_revoked=True))
        except NotFoundError:
            if self._enrol:
                self._client.enrol(person, method="import")
            return frozenset()
        sources = {record.consent.source for record in records}
        if any(record.version > 1 for record in records):
            # The list has only the versions in force. The sources of earlier versions are only in the person's chain.
            sources |= self._earlier_sources(person)
        return sources - {""}

    def grant(self, subject: "SubjectReference", consent: "Consent", request_id: bytes) -> tuple[str, bool]:
        from consentd.statements import values

        granted = self._client.grant(
            self._person(subject), values.consent_message(consent), method="import", request_id=request_id
        )
        return granted.consent_id, granted.receipt.replayed

    def _earlier_sources(self, person: "Subject") -> set[str]:
        """Read each consent version's ``source`` from the person's chain, unverified: it only prevents a re-import."""
        from consentd.statements import payloads
        from consentd.v1 import ledger_service_pb2 as ls
        from consentd_client.history import collect_proof
        from consentd_client.operations import call_stream

        request = ls.GetHistoryRequest(subject=person)
        messages = self._client.run(call_stream(self._client.context, request, ls.GetHistoryResponse))
        sources = set()
        for entry in collect_proof(messages).chains[0].entries:
            event = codec.decode_leaf(entry.leaf)
            if isinstance(event, codec.Event) and event.kind in (EntryKind.GRANT, EntryKind.AMEND) and entry.opening:
                message: Any = payloads.decode_payload(event.kind, codec.decode_statement(entry.opening[1]).payload)
                sources.add(message.consent.source)
        return sources

    def _person(self, subject: "SubjectReference") -> "Subject":
        from consentd_client import Subject

        return Subject(scheme=subject.scheme, value=subject.value)
