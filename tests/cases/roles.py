"""Callers of every kind, and a way to make each RPC about own, other's and unknown data, as the table of roles has it.

``ATTEMPTS`` has a function for each RPC. It makes the call as one caller, about data of one kind, and returns how the
call was answered. A call that the table denies may have any content, but these are calls that would otherwise succeed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from cases import backups
from cases import roles_accesses as accesses
from cases import roles_administration as administration
from cases import roles_authorities as authorities
from cases import roles_consents as consents
from cases import roles_keys as keys
from cases import roles_publications as publications
from cases.daemons import consent, make_running, question, reason_of, request_id, sign_statement
from cases.erasures import ATTEMPTS as ERASURE_ATTEMPTS
from cases.logins import Provider, bearer, call_metadata
from cases.services import add_key, new_identifier, now_ms, proof_of, put_mandate, register
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.service.auth import make_token
from consentd.service.roles import Access, Kind, Whose
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

HOLDER, RECIPIENT, RELAY = st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT, st.PARTICIPANT_ROLE_RELAY
AUDITOR, COURT = st.PARTICIPANT_ROLE_AUDITOR, st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY

REGISTERED: dict[str, tuple[int, list[int]]] = {
    "holder": (HOLDER, []),
    "recipient": (RECIPIENT, []),
    "relay": (RELAY, []),
    "relay-acts": (RELAY, [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS]),
    "recipient-sees": (RECIPIENT, [st.PARTICIPANT_RIGHT_SEE_REASONS]),
    "recipient-erases": (RECIPIENT, [st.PARTICIPANT_RIGHT_ERASE]),
    "auditor": (AUDITOR, []),
    "auditor-reads": (AUDITOR, [st.PARTICIPANT_RIGHT_READ_STATEMENTS]),
    "auditor-waits": (AUDITOR, [st.PARTICIPANT_RIGHT_READ_STATEMENTS]),
    "court": (COURT, []),
    "left": (RECIPIENT, []),
}
CITIZEN, CITIZEN_KEY = "citizen", "citizen-key"
KINDS: dict[str, frozenset[Kind]] = {
    "nobody": frozenset({Kind.NOBODY}),
    "unknown-token": frozenset({Kind.NOBODY}),
    "unregistered": frozenset({Kind.UNREGISTERED}),
    "left": frozenset({Kind.INACTIVE}),
    "holder": frozenset({Kind.HOLDER}),
    "recipient": frozenset({Kind.RECIPIENT}),
    "relay": frozenset({Kind.RELAY}),
    "relay-acts": frozenset({Kind.RELAY, Kind.ACT_FOR_SUBJECTS}),
    "recipient-sees": frozenset({Kind.RECIPIENT, Kind.SEE_REASONS}),
    "recipient-erases": frozenset({Kind.RECIPIENT, Kind.ERASE}),
    "auditor": frozenset({Kind.AUDITOR}),
    "auditor-reads": frozenset({Kind.AUDITOR, Kind.READ_STATEMENTS}),
    "auditor-waits": frozenset({Kind.AUDITOR}),  # it has the right, and no mandate
    "court": frozenset({Kind.PUBLIC_AUTHORITY}),
    "operator/run": frozenset({Kind.RUN}),
    "operator/watch": frozenset({Kind.READ_METRICS}),
    "operator/registrar": frozenset({Kind.ADMINISTER}),
    "operator": frozenset({Kind.RUN, Kind.READ_METRICS, Kind.ADMINISTER}),
    CITIZEN: frozenset({Kind.CITIZEN}),
    CITIZEN_KEY: frozenset({Kind.CITIZEN_KEY}),
}
"""Each caller, and of which kinds it is."""

_ASKERS = ("holder", "recipient", "relay", "relay-acts", "recipient-sees", "recipient-erases", "left")


class World:
    """A daemon with the callers of ``KINDS``. ``clinic-b`` and ``hospital-a`` are others, and ``app`` helps."""

    def __init__(self, directory: Path) -> None:
        self.provider = Provider(directory)
        section = self.provider.config() + backups.section()
        self.running = running = make_running(directory, section, checkpoint_interval_ms=10, retention_days=30)
        self.me: pb.Subject | None = None
        self.my_tag, self.my_key = b"", KeyPair(bytes(32))
        self.keys: dict[str, KeyPair] = {}
        self._former: dict[str, tuple[pb.Subject, int, pb.Receipt]] = {}
        for number, (name, (role, rights)) in enumerate(REGISTERED.items(), 1):
            running.add_caller(name)
            if role in (AUDITOR, COURT):  # which received data once, and still reports what became of it
                register(running, name, [RECIPIENT])
                self._former[name] = self._make_access(name)
            register(running, name, [role], rights=rights)
            self.keys[name] = KeyPair(bytes([number]) * 32)
            add_key(running, name, self.keys[name])
        put_mandate(running, "auditor-reads")
        running.add_caller("unregistered")
        for name, kind in (("run", "RUN"), ("watch", "READ_METRICS"), ("registrar", "ADMINISTER")):
            running.add_operator(f"operator/{name}", kind)
        running.tokens["unknown-token"] = make_token()
        for relay in ("relay", "relay-acts"):
            running.delegate("recipient", relay)
        self._former["left"] = self._make_access("left")
        register(running, "left", [RECIPIENT], active=False)
        running.wait_published()

    def metadata(self, caller: str, method: Any, request: Any) -> Any:
        """Return the metadata of a call of this *method*, the callable of a stub."""
        if caller == CITIZEN:
            assert self.me is not None
            return bearer(self.provider.token(self.me.value, now_ms(self.running)))
        if caller == CITIZEN_KEY:
            path, message = method._method, request.SerializeToString()
            path = path.decode() if isinstance(path, bytes) else path
            return call_metadata(self.my_key, path, message, now_ms(self.running))
        return None if caller == "nobody" else self.running.as_(caller)

    def begin(self, caller: str, *, enrols: bool) -> None:
        """Let the next calls be those of *caller*. A citizen is a new person, enrolled unless the call enrols."""
        self.me = None
        if caller not in (CITIZEN, CITIZEN_KEY):
            return
        self.me = pb.Subject(scheme="mhid", value=new_identifier())
        if enrols and caller == CITIZEN:
            return
        self.my_key = KeyPair(request_id() * 2)
        request = rs.EnrolSubjectRequest(
            request_id=request_id(), subject=self.me,
            subject_key=self.my_key.public_key if caller == CITIZEN_KEY else b"",
            possession=proof_of(self.my_key, self.me) if caller == CITIZEN_KEY else b"",
        )  # fmt: skip
        self.my_tag = self.running.registry.EnrolSubject(request, metadata=self.running.as_("app")).tag

    def person(self, whose: Whose) -> pb.Subject:
        """Return the caller, if it is a person and the data are its own. Else return a new person: not enrolled for
        UNKNOWN, else enrolled and with a consent.
        """
        if self.me is not None and whose in (Whose.OWN, Whose.SUBJECT, Whose.OWN_THEN, Whose.SUBJECT_THEN):
            return self.me
        if whose is Whose.UNKNOWN:
            return pb.Subject(scheme="mhid", value=new_identifier())
        subject = self.running.enrol(new_identifier())
        self.running.grant(subject, actors=["*"], holders=["*"])
        return subject

    def question(self, caller: str, whose: Whose, subject: pb.Subject, **fields: Any) -> pb.Question:
        """Return a question in which the caller has a part, unless it is for OTHER or SUBJECT."""
        asked = question(subject, actor=self._actor(caller), holder="holder", **fields)
        if whose is Whose.OTHER:
            asked.actor.CopyFrom(pb.Actor(organisation="clinic-b"))
            asked.holder = "hospital-a"
        if whose in (Whose.SUBJECT, Whose.SUBJECT_THEN):
            asked.actor.CopyFrom(pb.Actor(organisation="SUBJECT"))
        return asked

    def access(self, caller: str, whose: Whose) -> tuple[pb.Subject, int, pb.Receipt]:
        """Return the person, the seq and the receipt of a permitted access: for OWN, the caller has a part in it."""
        if whose is Whose.UNKNOWN:
            return self.person(whose), 2, pb.Receipt()
        if whose is Whose.OWN and caller in self._former:
            return self._former[caller]
        subject = self.me if whose is Whose.OWN else None
        if subject is not None:
            self.running.grant(subject, actors=["*"], holders=["*"])
        return self._make_access(caller if whose is Whose.OWN and caller in _ASKERS else "clinic-b", subject)

    def _make_access(self, caller: str, subject: pb.Subject | None = None) -> tuple[pb.Subject, int, pb.Receipt]:
        subject = subject or self.person(Whose.OTHER)
        whose = Whose.OTHER if caller == "clinic-b" else Whose.OWN
        answer = self.running.authorize(self.question(caller, whose, subject), caller)
        return subject, answer.access_seq, answer.receipt

    def _actor(self, caller: str) -> pb.Actor:
        if caller in ("relay", "relay-acts"):
            return pb.Actor(organisation="recipient", relays=[caller])
        if REGISTERED.get(caller, (HOLDER,))[0] in (RECIPIENT, AUDITOR, COURT):  # the latter two: before
            return pb.Actor(organisation=caller)
        return pb.Actor(organisation="recipient")


class Call:
    """One call: as whom, about whose data. ``make`` makes it and returns the response, or how it was refused."""

    def __init__(self, world: World, caller: str, whose: Whose) -> None:
        self.world, self.caller, self.whose = world, caller, whose
        self.running = world.running
        self.code: grpc.StatusCode | None = None
        self.is_signed = caller == CITIZEN_KEY and whose in (Whose.OWN, Whose.SUBJECT)

    def make(self, method: Any, request: Any) -> Any:
        """Return the response, the responses of a stream, or the ``Access`` with which the call was refused."""
        try:
            answer = method(request, metadata=self.world.metadata(self.caller, method, request))
            return list(answer) if isinstance(answer, grpc.Call) and hasattr(answer, "__iter__") else answer
        except grpc.RpcError as error:
            self.code = error.code()
            if reason_of(error) in ("UNAUTHENTICATED", "CALLER_NOT_ALLOWED"):
                return Access.DENIED
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return Access.NOT_FOUND
            raise

    def state(self, request: Any, kind: EntryKind, message: Any, *, ref: int = 0) -> Any:
        """Put a statement into a request about a person: signed, if the person's own key signs the call."""
        if not self.is_signed:
            request.attested.CopyFrom(message)
            return request
        signed = sign_statement(
            self.world.my_key, message, kind=kind, tag=self.world.my_tag, request=request.request_id,
            time_ms=now_ms(self.running), ref=ref,
        )  # fmt: skip
        request.signed.CopyFrom(signed)
        return request

    def sign(self, request: Any, kind: EntryKind, message: Any, chain: str) -> Any:
        """Put a statement into a request: for OWN signed by the caller, else to be attested.

        *chain*: the name of the entry's chain, or a participant's id.
        """
        if self.whose is Whose.OWN:
            tag = codec.public_tag(chain if "/" in chain else f"participant/{chain}")
            key = self.world.keys.get(self.caller, KeyPair(b"\x63" * 32))
            signed = sign_statement(
                key, message, kind=kind, tag=tag, request=request.request_id, time_ms=now_ms(self.running)
            )
            request.signed.CopyFrom(signed)
        else:
            request.attested.CopyFrom(message)
        return request

    def plain(self, method: Any, request: Any) -> Access:
        """Return ALLOWED if the call succeeds."""
        answer = self.make(method, request)
        return answer if isinstance(answer, Access) else Access.ALLOWED


# -- the ledger -----------------------------------------------------------------------------------------------------


def _receipt_of(call: Call) -> tuple[pb.Subject, pb.Receipt]:
    """Return the receipt of an entry and its person: for PUBLIC of a registration, for OWN one of the caller's."""
    if call.whose is Whose.PUBLIC:
        return pb.Subject(), register(call.running, "clinic-b", [RECIPIENT])
    if call.whose is Whose.OWN and call.caller in ("relay-acts", "court"):
        subject = call.world.person(call.whose)
        made = consents.basis(consent(**(consents.STATUTORY if call.caller == "court" else {})))
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=made)
        )
        return subject, call.running.consents.GrantConsent(request, metadata=call.running.as_(call.caller)).receipt
    subject, _, receipt = call.world.access(call.caller, call.whose)
    return subject, receipt


def _get_receipt(call: Call) -> Access:
    subject, receipt = _receipt_of(call)
    request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
    if call.whose is not Whose.PUBLIC:
        request.subject.CopyFrom(subject)
    answer = call.make(call.running.ledger.GetReceipt, request)
    if isinstance(answer, Access):
        return answer
    return Access.ALLOWED if answer.HasField("opening") else Access.REDUCED


def _history(call: Call) -> Access:
    request = ls.GetHistoryRequest(public_name="ledger")
    if call.whose is not Whose.PUBLIC:
        request = ls.GetHistoryRequest(subject=call.world.person(call.whose))
        call.running.wait_published()
    return call.plain(call.running.ledger.GetHistory, request)


def _list_entries(call: Call) -> Access:
    kind = EntryKind.PARTICIPANT if call.whose is Whose.PUBLIC else EntryKind.ENROL
    answer = call.make(call.running.ledger.ListEntries, ls.ListEntriesRequest(kinds=[kind]))
    if isinstance(answer, Access):
        return answer
    assert answer.entries, "the ledger begins with registrations and an enrolment"
    return Access.ALLOWED if answer.entries[0].HasField("opening") else Access.REDUCED


# -- the registry ---------------------------------------------------------------------------------------------------


def _delegation(call: Call, *, ended: bool) -> Any:
    """Return a request to put or to end a delegation: for OWN signed by its giver, the caller."""
    giver = call.caller if call.whose is Whose.OWN else "hospital-a"
    made = st.DelegationStatement(giver=giver, taker="app", capacity=st.DELEGATION_CAPACITY_APPLICATION)
    if ended and giver in ("hospital-a", "holder", "recipient", "recipient-sees", "recipient-erases"):
        call.running.put_delegation(made)
    request: Any = rs.PutDelegationRequest(request_id=request_id())
    if ended:
        made.ended = True
        request = rs.EndDelegationRequest(request_id=request_id())
    return call.sign(request, EntryKind.DELEGATION, made, giver)


def _mandate(call: Call, auditor: str, *, ended: bool) -> Any:
    """Return a request to put or to end a mandate: for OWN given by the caller."""
    message = st.MandateStatement(auditor=auditor, giver=call.caller if call.whose is Whose.OWN else "")
    if ended:
        message.ended = True
        request: Any = rs.EndMandateRequest(request_id=request_id())
    else:
        message.scope, message.reason, message.end_time_ms = "accesses", "order 12", now_ms(call.running) + 60_000
        request = rs.PutMandateRequest(request_id=request_id())
    return call.sign(request, EntryKind.MANDATE, message, auditor)


def _put_mandate(call: Call) -> Access:
    found = call.plain(call.running.registry.PutMandate, _mandate(call, "auditor", ended=False))
    if found is Access.ALLOWED:
        ended = st.MandateStatement(auditor="auditor", ended=True)
        ending = rs.EndMandateRequest(request_id=request_id(), attested=ended)
        call.running.registry.EndMandate(ending, metadata=call.running.as_("operator"))
    return found


def _end_mandate(call: Call) -> Access:
    put_mandate(call.running, "pipc")
    if call.whose is Whose.OWN and call.caller == "court":
        call.running.registry.PutMandate(_mandate(call, "pipc", ended=False), metadata=call.running.as_("court"))
    return call.plain(call.running.registry.EndMandate, _mandate(call, "pipc", ended=True))


def _register(call: Call) -> Access:
    owner = call.caller if call.whose is Whose.OWN else "new"
    role, rights = REGISTERED.get(owner, (HOLDER, []))
    made = st.ParticipantStatement(
        participant_id=owner, name={"en": owner}, roles=[role], rights=rights, active=True
    )
    request = rs.RegisterParticipantRequest(request_id=request_id())
    return call.plain(
        call.running.registry.RegisterParticipant, call.sign(request, EntryKind.PARTICIPANT, made, owner)
    )


def _enrol(call: Call) -> Access:
    is_other = call.caller not in (CITIZEN, CITIZEN_KEY) or call.whose is not Whose.OWN
    subject = call.world.person(Whose.UNKNOWN if is_other else Whose.OWN)
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject)
    return call.plain(call.running.registry.EnrolSubject, request)


def _reads(service: str, method: str, request: Any) -> Callable[[Call], Access]:
    """Return the attempt of an RPC whose request is the same for every caller."""
    return lambda call: call.plain(getattr(getattr(call.running, service), method), request)


ATTEMPTS: dict[str, Callable[[Call], Access]] = {
    "Check": accesses.check,
    "BatchCheck": accesses.batch_check,
    "AuthorizeAccess": accesses.authorize,
    "BatchAuthorizeAccesses": accesses.batch_authorize,
    "RecordAccess": lambda call: call.plain(call.running.access.RecordAccess, accesses.outcome(call)),
    "BatchRecordAccesses": lambda call: call.plain(
        call.running.access.BatchRecordAccesses, ac.BatchRecordAccessesRequest(requests=[accesses.outcome(call)])
    ),
    "GetAccess": accesses.get_access,
    "ListAccesses": accesses.list_accesses,
    "GrantConsent": consents.grant,
    "AmendConsent": consents.amend,
    "RenewConsent": consents.renew,
    "ListExpiring": consents.list_expiring,
    "ListDueTransfers": _reads("access", "ListDueTransfers", ac.ListDueTransfersRequest()),
    "RecordServed": consents.record_served,
    "PauseConsent": consents.changes(EntryKind.PAUSE, "PauseConsent", cs.PauseConsentRequest, st.PauseStatement),
    "ResumeConsent": consents.changes(EntryKind.RESUME, "ResumeConsent", cs.ResumeConsentRequest, st.ResumeStatement),
    "RevokeConsent": consents.changes(EntryKind.REVOKE, "RevokeConsent", cs.RevokeConsentRequest, st.RevokeStatement),
    "GetConsent": consents.get_consent,
    "ListConsents": consents.list_consents,
    "PutAuthority": authorities.put,
    "EndAuthority": authorities.end,
    "GetAuthority": authorities.get,
    "ListAuthorities": authorities.list_all,
    "ListReconsents": publications.list_reconsents,
    "GetCampaign": publications.get_campaign,
    "GetCheckpoint": _reads("ledger", "GetCheckpoint", ls.GetCheckpointRequest()),
    "GetConsistencyProof": _reads("ledger", "GetConsistencyProof", ls.GetConsistencyProofRequest(first_tree_size=1)),
    "GetInclusionProof": _reads("ledger", "GetInclusionProof", ls.GetInclusionProofRequest()),
    "GetReceipt": _get_receipt,
    "GetHistory": _history,
    "ListLeaves": _reads("ledger", "ListLeaves", ls.ListLeavesRequest()),
    "ListEntries": _list_entries,
    "EnrolSubject": _enrol,
    **ERASURE_ATTEMPTS,
    "RegisterParticipant": _register,
    "AddKey": keys.add_key,
    "RetireKey": keys.retire_key,
    "PublishVocabulary": publications.publish_vocabulary,
    "PublishNotice": publications.publish_notice,
    "PublishRules": publications.publish_rules,
    "PutDelegation": lambda call: call.plain(call.running.registry.PutDelegation, _delegation(call, ended=False)),
    "EndDelegation": lambda call: call.plain(call.running.registry.EndDelegation, _delegation(call, ended=True)),
    "PutMandate": _put_mandate,
    "EndMandate": _end_mandate,
    "ListDelegations": _reads("registry", "ListDelegations", rs.ListDelegationsRequest()),
    "GetParticipant": _reads("registry", "GetParticipant", rs.GetParticipantRequest(participant_id="clinic-b")),
    "ListParticipants": _reads("registry", "ListParticipants", rs.ListParticipantsRequest()),
    "GetVocabulary": _reads("registry", "GetVocabulary", rs.GetVocabularyRequest()),
    "GetNotice": publications.get_notice,
    "GetRules": _reads("registry", "GetRules", rs.GetRulesRequest()),
    "StartPruning": administration.start_pruning,
    "PrepareKeyRotation": administration.prepare_rotation,
    "StartKeyRotation": administration.start_rotation,
    "StartVaultKeyRotation": administration.start_vault_key_rotation,
    "StartBackup": administration.start_backup,
    "GetOperation": lambda call: administration.of_operation(call, "GetOperation", ad.GetOperationRequest),
    "ListOperations": _reads("admin", "ListOperations", ad.ListOperationsRequest()),
    "CancelOperation": lambda call: administration.of_operation(call, "CancelOperation", ad.CancelOperationRequest),
    "AddCredential": lambda call: call.plain(
        call.running.admin.AddCredential, ad.AddCredentialRequest(request_id=request_id(), caller="app")
    ),
    "ListCredentials": _reads("admin", "ListCredentials", ad.ListCredentialsRequest()),
    "RevokeCredential": administration.revoke_credential,
}
"""For each RPC, the function that makes a call to it and returns how the call was answered."""
