"""``consentd import fhir``: grant the consents of FHIR files, and report on each file."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consentd.cli.daemon_options import add_daemon
from consentd.cli.options import Verbs, add_group, add_verb, open_client
from consentd.cli.out import DONE, REFUSED, UNDETERMINED, Out, counted
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError, NotReachedError

if TYPE_CHECKING:
    from consentd.core.history import ChainProof
    from consentd.fhir.importer import Stored
    from consentd.fhir.mapping import SubjectReference
    from consentd.policy.model import Consent
    from consentd_client import Client, Subject
    from consentd_client.operations import ClientContext, Operation

_HELP = """\
A file is imported whole or not at all: if one of its resources is refused, none is written and nobody is enrolled. If
the daemon refuses a consent when it is written, those before it stay, and so does who was enrolled for it: the report
says so. A Bundle that is one page of several is refused. Importing a file again changes nothing. A resource that was
withdrawn in the other system (status inactive, for example) is refused, naming the consent that is in force here; with
--apply that consent is revoked. The daemon records a consent that has ended for an operator alone, who in turn may not
read consents: give the operator's token with --operator-token-file beside that of a caller who acts for persons. With
--dry-run no daemon is called and nothing is written; codes are checked against the default vocabulary.

exit status:
  0 every resource was imported, is unchanged or was revoked
  1 something was refused
  2 an error: no file was found, a file or the mapping cannot be read, or the daemon fails; run it again to import the
    rest
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb ``import``."""
    under = add_group(verbs, "import", "import consents from other systems: `import fhir`", metavar="FORMAT")
    one = add_verb(under, "fhir", import_fhir, add_daemon, more=_HELP)
    one.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files, or directories of *.json and *.xml")
    one.add_argument("--mapping", type=Path, metavar="FILE", help="how codes are mapped; as in ops/fhir-mapping.toml")
    one.add_argument("--test-data", action="store_true", help="import resources labelled as test data too")
    one.add_argument("--enrol", action="store_true", help="enrol persons who are not enrolled")
    one.add_argument("--apply", action="store_true", help="revoke consents that were withdrawn in the other system")
    one.add_argument("--operator-token-file", type=Path, metavar="FILE", help="to record consents that have ended")
    one.add_argument("--dry-run", action="store_true", help="only report what would be imported")


def import_fhir(arguments: argparse.Namespace, out: Out) -> int:
    """Import FHIR Consents, R4 or R5, and Bundles of them, in JSON or XML."""
    from consentd.fhir import importer
    from consentd.fhir.mapping import load_mapping, parse_mapping
    from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
    from consentd.statements import values

    path = arguments.mapping
    files = importer.find_files(arguments.paths)
    if not files:
        out.message("no file was found")
        return UNDETERMINED
    counts: Counter[str] = Counter()
    refused = unreadable = False
    with (
        open_client(arguments) as client, _open_operator(arguments) as operator, out.progress("importing") as progress
    ):  # fmt: skip
        vocabulary = DEFAULT_VOCABULARY
        if not arguments.dry_run:
            vocabulary = values.vocabulary_value(client.get_vocabulary())
        mapping = load_mapping(path, vocabulary) if path else parse_mapping("", vocabulary)
        writer = _DryRun() if arguments.dry_run else _Writer(client, operator, enrol=arguments.enrol)

        reports = importer.import_paths(
            files, mapping, writer, test_data=arguments.test_data, apply=arguments.apply, progress=progress
        )
        for report in reports:
            refused |= report.refused
            unreadable |= report.unreadable
            counts.update(resource.result for resource in report.resources)
            out.lines(importer.format_json(report) if out.as_json else importer.format_text(report))
    summary = ", ".join(f"{counts[result]} {result}" for result in importer.ImportResult if counts[result])
    out.message(f"{counted(len(files), 'files')}: {summary}")
    return UNDETERMINED if unreadable else REFUSED if refused else DONE


@contextmanager
def _open_operator(arguments: argparse.Namespace) -> "Iterator[Client | None]":
    """Open a client with the token of an operator; None: no such token is given, or no daemon is called."""
    if arguments.operator_token_file is None or arguments.dry_run:
        yield None
        return
    with open_client(argparse.Namespace(**{**vars(arguments), "token_file": arguments.operator_token_file})) as client:
        yield client


class _DryRun:
    """The writer that the importer uses for --dry-run. It writes nothing."""

    def stored(self, subject: "SubjectReference") -> "tuple[Stored, ...]":
        return ()

    def enrol(self, subject: "SubjectReference") -> bool:
        return False

    def grant(self, subject: "SubjectReference", consent: "Consent", request_id: bytes) -> tuple[str, bool]:
        return "(dry run)", False

    def revoke(self, subject: "SubjectReference", consent_id: str, request_id: bytes) -> None:
        raise AssertionError("a dry run knows no consent to revoke")


class _Writer:
    """The writer with which the importer records consents at a daemon; by *operator*, if any, those that have ended."""

    def __init__(self, client: "Client", operator: "Client | None", *, enrol: bool) -> None:
        self._client, self._operator = client, operator
        self._enrol = enrol
        self._not_enrolled: set[SubjectReference] = set()

    def stored(self, subject: "SubjectReference") -> "list[Stored] | None":
        from consentd.fhir.importer import Stored
        from consentd.v1 import consent_service_pb2 as cs
        from consentd_client.consents import ALL_STATES

        person = self._person(subject)
        try:
            records = list(self._client.list_consents(person, states=ALL_STATES))
        except NotFoundError:
            self._not_enrolled.add(subject)
            return [] if self._enrol else None
        by_lineage = {record.lineage_seq: record for record in records}
        sources = [(record.lineage_seq, record.consent.source) for record in records]
        if any(record.version > 1 for record in records):
            # The list has only the versions in force. The sources of earlier versions are only in the person's chain.
            sources += self._earlier_sources(person, max(record.seq for record in records))
        return [
            Stored(source, by_lineage[seq].consent_id, by_lineage[seq].state != cs.CONSENT_STATE_REVOKED)
            for seq, source in sources
            if source and seq in by_lineage
        ]

    def enrol(self, subject: "SubjectReference") -> bool:
        if subject not in self._not_enrolled:
            return False
        self._client.enrol(self._person(subject), method="import")
        self._not_enrolled.discard(subject)
        return True

    def grant(self, subject: "SubjectReference", consent: "Consent", request_id: bytes) -> tuple[str, bool]:
        from consentd.statements import values

        person, has_ended = self._person(subject), consent.root.end_ms <= time.time() * 1000
        writer = self._operator if self._operator is not None and has_ended else self._client
        granted = writer.grant(person, values.consent_message(consent), method="import", request_id=request_id)
        return granted.consent_id, granted.receipt.replayed

    def revoke(self, subject: "SubjectReference", consent_id: str, request_id: bytes) -> None:
        note = "withdrawn in the system that it was imported from"
        self._client.revoke(self._person(subject), consent_id, note=note, method="import", request_id=request_id)

    def _earlier_sources(self, person: "Subject", count: int) -> list[tuple[int, str]]:
        """Read (lineage's seq, ``source``) of each consent version from the person's chain.

        *count*: the least number of entries that must be published.

        The chain is not verified here: what is read only prevents a second import.
        """
        from consentd.statements import payloads

        sources = []
        for entry in self._client.run(_read_chain(self._client.context, person, count)).entries:
            event = codec.decode_leaf(entry.leaf)
            if isinstance(event, codec.Event) and event.kind in (EntryKind.GRANT, EntryKind.AMEND) and entry.opening:
                message: Any = payloads.decode_payload(event.kind, codec.decode_statement(entry.opening[1]).payload)
                sources.append((getattr(message, "lineage_seq", event.seq), message.consent.source))
        return sources

    def _person(self, subject: "SubjectReference") -> "Subject":
        from consentd_client import Subject

        return Subject(scheme=subject.scheme, value=subject.value)


def _read_chain(context: "ClientContext", person: "Subject", count: int) -> "Operation[ChainProof]":
    """Read a person's chain, not verified, when at least *count* entries of it are published.

    Raises:
        NotReachedError: they are not published before the client's timeout.
        NotFoundError: the person, who was enrolled when the caller read the consents, is not any more.
    """
    from consentd.v1 import ledger_service_pb2 as ls
    from consentd_client.history import collect_proof
    from consentd_client.operations import Sleep, call_stream

    request = ls.GetHistoryRequest(subject=person)
    while True:
        try:
            chain = collect_proof((yield from call_stream(context, request, ls.GetHistoryResponse))).chains[0]
            if chain.count >= count:
                return chain
        except NotFoundError as error:
            # Otherwise nothing is published yet. A person without a published entry has a history of no entries.
            if error.reason == "SUBJECT_NOT_FOUND":
                message = "person was erased while the import read their consents; import again"
                raise NotFoundError(message, "SUBJECT_NOT_FOUND") from error
        if not (yield Sleep(context.backoff_s)):
            raise NotReachedError("the latest entries of a person are not published yet; import again")
