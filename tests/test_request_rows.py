"""Request rows are in the ledger's store in the clear: nobody without the vault can test what they were made from."""

from pathlib import Path

from cases.daemons import Running, make_running, question
from cases.services import record, services
from consentd.ledger import layout

REQUESTS = 4
"""Those of a person below: an enrolment, a consent, an access and its outcome."""


def content_hashes(directory: Path) -> set[bytes]:
    """Make the same requests as ever about the same person, and return the hashes of their contents that are stored."""
    running: Running = make_running(directory)
    try:
        store = services(running).ledger.store
        before = {row[layout.REQUEST.size - 32 :] for _, row in store.scan(b"q", b"r")}
        subject = running.enrol("SYN-ROWS")
        running.grant(subject)
        access = running.authorize(question(subject))
        record(running, subject, access.access_seq)
        return {row[layout.REQUEST.size - 32 :] for _, row in store.scan(b"q", b"r")} - before
    finally:
        running.stop()


def test_a_request_row_about_a_person_cannot_be_made_without_the_vault(tmp_path: Path) -> None:
    first, second = content_hashes(tmp_path / "first"), content_hashes(tmp_path / "second")
    assert (len(first), len(second)) == (REQUESTS, REQUESTS)
    assert not first & second
