"""The remote procedures that the client calls. Each has message types of its own, which name it in the contract."""

from typing import TypeVar

from google.protobuf.message import Message

from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd_client.operations import Rpc

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def _rpc(request: type[Q], response: type[R]) -> Rpc[Q, R]:
    """Return the procedure of the contract whose request and response are of these types."""
    wanted = (request.DESCRIPTOR, response.DESCRIPTOR)
    services = request.DESCRIPTOR.file.services_by_name.values()
    [found] = [rpc for service in services for rpc in service.methods if (rpc.input_type, rpc.output_type) == wanted]
    return Rpc(f"/{found.containing_service.full_name}/{found.name}", request, response)


CHECK = _rpc(ps.CheckRequest, ps.CheckResponse)
BATCH_CHECK = _rpc(ps.BatchCheckRequest, ps.BatchCheckResponse)

AUTHORIZE_ACCESS = _rpc(ac.AuthorizeAccessRequest, ac.AuthorizeAccessResponse)
BATCH_AUTHORIZE_ACCESSES = _rpc(ac.BatchAuthorizeAccessesRequest, ac.BatchAuthorizeAccessesResponse)
RECORD_ACCESS = _rpc(ac.RecordAccessRequest, ac.RecordAccessResponse)
BATCH_RECORD_ACCESSES = _rpc(ac.BatchRecordAccessesRequest, ac.BatchRecordAccessesResponse)
LIST_ACCESSES = _rpc(ac.ListAccessesRequest, ac.ListAccessesResponse)

GRANT_CONSENT = _rpc(cs.GrantConsentRequest, cs.GrantConsentResponse)
AMEND_CONSENT = _rpc(cs.AmendConsentRequest, cs.AmendConsentResponse)
PAUSE_CONSENT = _rpc(cs.PauseConsentRequest, cs.PauseConsentResponse)
RESUME_CONSENT = _rpc(cs.ResumeConsentRequest, cs.ResumeConsentResponse)
REVOKE_CONSENT = _rpc(cs.RevokeConsentRequest, cs.RevokeConsentResponse)
GET_CONSENT = _rpc(cs.GetConsentRequest, cs.GetConsentResponse)
LIST_CONSENTS = _rpc(cs.ListConsentsRequest, cs.ListConsentsResponse)

GET_CHECKPOINT = _rpc(ls.GetCheckpointRequest, ls.GetCheckpointResponse)
GET_CONSISTENCY_PROOF = _rpc(ls.GetConsistencyProofRequest, ls.GetConsistencyProofResponse)
GET_RECEIPT = _rpc(ls.GetReceiptRequest, ls.GetReceiptResponse)
GET_HISTORY = _rpc(ls.GetHistoryRequest, ls.GetHistoryResponse)
PRUNE = _rpc(ls.PruneRequest, ls.PruneResponse)

ENROL_SUBJECT = _rpc(rs.EnrolSubjectRequest, rs.EnrolSubjectResponse)
REGISTER_PARTICIPANT = _rpc(rs.RegisterParticipantRequest, rs.RegisterParticipantResponse)
ADD_KEY = _rpc(rs.AddKeyRequest, rs.AddKeyResponse)
RETIRE_KEY = _rpc(rs.RetireKeyRequest, rs.RetireKeyResponse)
PUBLISH_VOCABULARY = _rpc(rs.PublishVocabularyRequest, rs.PublishVocabularyResponse)
PUBLISH_NOTICE = _rpc(rs.PublishNoticeRequest, rs.PublishNoticeResponse)
PUBLISH_RULES = _rpc(rs.PublishRulesRequest, rs.PublishRulesResponse)
GET_PARTICIPANT = _rpc(rs.GetParticipantRequest, rs.GetParticipantResponse)
LIST_PARTICIPANTS = _rpc(rs.ListParticipantsRequest, rs.ListParticipantsResponse)
GET_VOCABULARY = _rpc(rs.GetVocabularyRequest, rs.GetVocabularyResponse)
GET_NOTICE = _rpc(rs.GetNoticeRequest, rs.GetNoticeResponse)
GET_RULES = _rpc(rs.GetRulesRequest, rs.GetRulesResponse)
