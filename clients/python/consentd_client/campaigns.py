"""Operations about campaigns: a version of a notice asks for new consents."""

from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages


def get_campaign(context: ClientContext, notice_id: str, version: int = 0) -> Operation[rs.GetCampaignResponse]:
    """Count the consents under the versions of a notice. For the notice's participant, or an operator.

    *version*: that asks for new consents; 0: the latest. The counts prove nothing.
    """
    return call(context, rs.GetCampaignRequest(notice_id=notice_id, version=version), rs.GetCampaignResponse)


def list_reconsents(context: ClientContext, notice_id: str, version: int = 0) -> ReadPage[cs.Reconsent]:
    """Read the consents that a version of a notice asks for again, in the order of the persons' tags.

    The notice's participant reads all of them, and any other participant those whose permits name it. The list proves
    nothing, and each page shows the state of its own time. *version*: that asks for new consents; 0: the latest.
    """
    return read_pages(
        context, cs.ListReconsentsRequest(notice_id=notice_id, version=version), cs.ListReconsentsResponse,
        lambda answer: (answer.reconsents, answer.next_page_token),
    )  # fmt: skip
