"""Call a consentd daemon, and verify its answers with the code that the daemon itself uses for proofs.

    with Client("consent.example.org:7400", token=token, tls=Tls(), trust=pin(log_key)) as client:
        if client.check(question):          # true only if all is permitted, and nothing is left to do
            ...
        history = client.history(subject)   # raises VerificationError unless complete and genuine

``Client`` is for programs with threads, ``AsyncClient`` for asyncio; both have the same methods. Arguments and answers
use the protobuf messages of ``consentd.v1``. Errors are classes of ``consentd.errors``. ``clients/README.md`` says
which values a program must store, and what no client can prove.
"""

from consentd.core.checkpoint import Checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.possession import participant_owner, person_owner, prove_possession
from consentd.policy.model import Period as DataPeriod
from consentd.policy.model import Resource
from consentd.v1 import consent_pb2, statement_pb2
from consentd.v1.consent_pb2 import (
    Actor,
    BreakGlass,
    CodeSet,
    Consent,
    Decision,
    Period,
    Provision,
    Question,
    Subject,
)
from consentd.v1.statement_pb2 import OutcomeStatement, ParticipantStatement, ServedStatement
from consentd_client.access import AuthorizeAnswer, TransferOutcome
from consentd_client.answers import CheckAnswer, NotPermittedError
from consentd_client.async_client import AsyncClient
from consentd_client.base import new_request_id
from consentd_client.client import Client
from consentd_client.consents import GrantAnswer
from consentd_client.consistency import AtExact, AtLeast
from consentd_client.entries import Entry, History
from consentd_client.erasures import Erasure
from consentd_client.evidence import open_history
from consentd_client.history_file import HistoryFile, HistoryState
from consentd_client.memory import FileMemory, Memory, RamMemory, RememberedEntry, RememberedHistory
from consentd_client.receipts import Receipt, ReducedReceipt, verify_inclusion, verify_receipt
from consentd_client.registry import EnrolAnswer
from consentd_client.signing import CallSigner, StatementSigner
from consentd_client.transport import Tls
from consentd_client.trust import Trust, pin

__all__ = [
    "Actor", "AsyncClient", "AtExact", "AtLeast", "AuthorizeAnswer", "BreakGlass", "CallSigner", "CheckAnswer",
    "Checkpoint", "Client", "CodeSet", "Consent", "DataPeriod", "Decision", "EnrolAnswer", "Entry", "EntryKind",
    "Erasure", "FileMemory", "GrantAnswer", "History", "HistoryFile", "HistoryState", "KeyPair", "Memory",
    "NotPermittedError", "OutcomeStatement", "ParticipantStatement", "Period", "Provision", "Question", "RamMemory",
    "Receipt", "ReducedReceipt", "RememberedEntry", "RememberedHistory", "Resource", "ServedStatement",
    "StatementSigner", "Subject", "Tls", "TransferOutcome", "Trust", "consent_pb2", "new_request_id",
    "open_history", "participant_owner", "person_owner", "pin", "prove_possession", "statement_pb2",
    "verify_inclusion", "verify_receipt",
]  # fmt: skip
