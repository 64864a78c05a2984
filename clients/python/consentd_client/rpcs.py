"""The remote procedures that the client calls. A test compares this table with the service definitions of the proto."""

from typing import Final

from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd_client.operations import Rpc

CHECK: Final = Rpc("/consentd.v1.PolicyService/Check", ps.CheckRequest, ps.CheckResponse)
BATCH_CHECK: Final = Rpc("/consentd.v1.PolicyService/BatchCheck", ps.BatchCheckRequest, ps.BatchCheckResponse)

AUTHORIZE_ACCESS: Final = Rpc(
    "/consentd.v1.AccessService/AuthorizeAccess", ac.AuthorizeAccessRequest, ac.AuthorizeAccessResponse
)
BATCH_AUTHORIZE_ACCESSES: Final = Rpc(
    "/consentd.v1.AccessService/BatchAuthorizeAccesses",
    ac.BatchAuthorizeAccessesRequest,
    ac.BatchAuthorizeAccessesResponse,
)
RECORD_ACCESS: Final = Rpc("/consentd.v1.AccessService/RecordAccess", ac.RecordAccessRequest, ac.RecordAccessResponse)
BATCH_RECORD_ACCESSES: Final = Rpc(
    "/consentd.v1.AccessService/BatchRecordAccesses", ac.BatchRecordAccessesRequest, ac.BatchRecordAccessesResponse
)
LIST_ACCESSES: Final = Rpc("/consentd.v1.AccessService/ListAccesses", ac.ListAccessesRequest, ac.ListAccessesResponse)

GRANT_CONSENT: Final = Rpc("/consentd.v1.ConsentService/GrantConsent", cs.GrantConsentRequest, cs.GrantConsentResponse)
AMEND_CONSENT: Final = Rpc("/consentd.v1.ConsentService/AmendConsent", cs.AmendConsentRequest, cs.AmendConsentResponse)
PAUSE_CONSENT: Final = Rpc("/consentd.v1.ConsentService/PauseConsent", cs.PauseConsentRequest, cs.PauseConsentResponse)
RESUME_CONSENT: Final = Rpc(
    "/consentd.v1.ConsentService/ResumeConsent", cs.ResumeConsentRequest, cs.ResumeConsentResponse
)
REVOKE_CONSENT: Final = Rpc(
    "/consentd.v1.ConsentService/RevokeConsent", cs.RevokeConsentRequest, cs.RevokeConsentResponse
)
GET_CONSENT: Final = Rpc("/consentd.v1.ConsentService/GetConsent", cs.GetConsentRequest, cs.GetConsentResponse)
LIST_CONSENTS: Final = Rpc("/consentd.v1.ConsentService/ListConsents", cs.ListConsentsRequest, cs.ListConsentsResponse)

GET_CHECKPOINT: Final = Rpc(
    "/consentd.v1.LedgerService/GetCheckpoint", ls.GetCheckpointRequest, ls.GetCheckpointResponse
)
GET_CONSISTENCY_PROOF: Final = Rpc(
    "/consentd.v1.LedgerService/GetConsistencyProof", ls.GetConsistencyProofRequest, ls.GetConsistencyProofResponse
)
GET_RECEIPT: Final = Rpc("/consentd.v1.LedgerService/GetReceipt", ls.GetReceiptRequest, ls.GetReceiptResponse)
GET_HISTORY: Final = Rpc("/consentd.v1.LedgerService/GetHistory", ls.GetHistoryRequest, ls.GetHistoryResponse)
PRUNE: Final = Rpc("/consentd.v1.LedgerService/Prune", ls.PruneRequest, ls.PruneResponse)

ENROL_SUBJECT: Final = Rpc("/consentd.v1.RegistryService/EnrolSubject", rs.EnrolSubjectRequest, rs.EnrolSubjectResponse)
REGISTER_PARTICIPANT: Final = Rpc(
    "/consentd.v1.RegistryService/RegisterParticipant", rs.RegisterParticipantRequest, rs.RegisterParticipantResponse
)
ADD_KEY: Final = Rpc("/consentd.v1.RegistryService/AddKey", rs.AddKeyRequest, rs.AddKeyResponse)
RETIRE_KEY: Final = Rpc("/consentd.v1.RegistryService/RetireKey", rs.RetireKeyRequest, rs.RetireKeyResponse)
PUBLISH_VOCABULARY: Final = Rpc(
    "/consentd.v1.RegistryService/PublishVocabulary", rs.PublishVocabularyRequest, rs.PublishVocabularyResponse
)
PUBLISH_NOTICE: Final = Rpc(
    "/consentd.v1.RegistryService/PublishNotice", rs.PublishNoticeRequest, rs.PublishNoticeResponse
)
PUBLISH_RULES: Final = Rpc("/consentd.v1.RegistryService/PublishRules", rs.PublishRulesRequest, rs.PublishRulesResponse)
GET_PARTICIPANT: Final = Rpc(
    "/consentd.v1.RegistryService/GetParticipant", rs.GetParticipantRequest, rs.GetParticipantResponse
)
LIST_PARTICIPANTS: Final = Rpc(
    "/consentd.v1.RegistryService/ListParticipants", rs.ListParticipantsRequest, rs.ListParticipantsResponse
)
GET_VOCABULARY: Final = Rpc(
    "/consentd.v1.RegistryService/GetVocabulary", rs.GetVocabularyRequest, rs.GetVocabularyResponse
)
GET_NOTICE: Final = Rpc("/consentd.v1.RegistryService/GetNotice", rs.GetNoticeRequest, rs.GetNoticeResponse)
GET_RULES: Final = Rpc("/consentd.v1.RegistryService/GetRules", rs.GetRulesRequest, rs.GetRulesResponse)
