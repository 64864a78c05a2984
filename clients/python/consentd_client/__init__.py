"""Talk to consentd, and verify what it says, with the very code that the ledger proves with.

    with Client("consent.example.org:7400", token=token, tls=Tls(), trust=pin(log_key)) as client:
        if client.check(question):          # true for a clear PERMIT, false for everything else
            ...
        history = client.history(subject)   # whole and genuine, or VerificationError

``Client`` is for threads, ``AsyncClient`` for asyncio; both have the same methods. Messages are those of
``consentd.v1``; errors are ``consentd.errors``. What a client must keep and what nothing proves stands in
``clients/README.md``.
"""

from consentd.core.checkpoint import Checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2, statement_pb2
from consentd.v1.consent_pb2 import (
    Actor,
    BreakGlass,
    CodeSet,
    Consent,
    Consistency,
    Decision,
    Period,
    Provision,
    Question,
    Subject,
)
from consentd.v1.statement_pb2 import OutcomeStatement, ParticipantStatement
from consentd_client.async_client import AsyncClient
from consentd_client.client import Client, new_request_id
from consentd_client.connect import Tls
from consentd_client.consents import Granted
from consentd_client.decisions import Authorized, Checked
from consentd_client.entries import Entry, History
from consentd_client.history_file import format_history, open_history, parse_history
from consentd_client.memory import FileMemory, HeldEntry, HeldHistory, Memory, RamMemory
from consentd_client.policy import AccessOutcome
from consentd_client.receipts import Receipt, verify_receipt
from consentd_client.registry import Enrolled
from consentd_client.signing import Author
from consentd_client.steps import Trust, pin

__all__ = [
    "AccessOutcome",
    "Actor",
    "AsyncClient",
    "Author",
    "Authorized",
    "BreakGlass",
    "Checked",
    "Checkpoint",
    "Client",
    "CodeSet",
    "Consent",
    "Consistency",
    "Decision",
    "Enrolled",
    "Entry",
    "EntryKind",
    "FileMemory",
    "Granted",
    "HeldEntry",
    "HeldHistory",
    "History",
    "KeyPair",
    "Memory",
    "OutcomeStatement",
    "ParticipantStatement",
    "Period",
    "Provision",
    "Question",
    "RamMemory",
    "Receipt",
    "Subject",
    "Tls",
    "Trust",
    "consent_pb2",
    "format_history",
    "new_request_id",
    "open_history",
    "parse_history",
    "pin",
    "statement_pb2",
    "verify_receipt",
]
