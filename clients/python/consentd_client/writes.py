"""What all writes have in common: their options, and how a daemon's answer becomes a receipt."""

from typing import Protocol, TypedDict, TypeVar

from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd_client.operations import ClientContext, Operation, Rpc, call
from consentd_client.receipts import Receipt, read_receipt
from consentd_client.signing import StatementSigner


class WriteOptions(TypedDict, total=False):
    """The options of every write, given as keyword arguments.

    Attributes:
        published: wait until a checkpoint covers the entry, so that the receipt has its proof. Default: False.
        request_id: 16 bytes that the caller stores, to repeat the write with. Default: drawn.
    """

    published: bool
    request_id: bytes


class ConsentOptions(WriteOptions, total=False):
    """The options of every write by a person.

    Attributes:
        signer: signs with the person's own key. Default: the daemon signs, and names the caller, who attests it.
        method: how the person was identified.
    """

    signer: StatementSigner | None
    method: str


class WriteFields(TypedDict):
    """The fields that the request of every write has."""

    request_id: bytes
    wait_for: "pb.WaitFor.ValueType"


class ConsentFields(WriteFields):
    """The fields that the request of every write by a person has."""

    method: str


def write_fields(
    context: ClientContext, options: WriteOptions, known: type[WriteOptions] = WriteOptions
) -> WriteFields:
    """Return the fields that *options* give a request; a request_id is drawn if they have none.

    Raises:
        TypeError: an option is not one of *known*.
    """
    # Python itself does not check the names of keyword arguments that a function collects in a dict.
    for name in options.keys() - known.__annotations__.keys():
        raise TypeError(f"write has no option `{name}`")
    request_id = options.get("request_id") or context.new_request_id()
    return {"request_id": request_id, "wait_for": wait_for(options.get("published", False))}


def consent_fields(context: ClientContext, options: ConsentOptions) -> ConsentFields:
    """Return likewise the fields for the request of a write by a person."""
    return {"method": options.get("method", ""), **write_fields(context, options, ConsentOptions)}


def wait_for(published: bool) -> "pb.WaitFor.ValueType":
    """Return what the daemon waits for before it answers a write."""
    return pb.WAIT_FOR_PUBLISHED if published else pb.WAIT_FOR_DURABLE


class WriteResponse(Protocol):
    """A response that has a receipt."""

    @property
    def receipt(self) -> pb.Receipt:
        """The receipt of the entry."""


Q = TypeVar("Q")
R = TypeVar("R", bound=WriteResponse)


def write(context: ClientContext, rpc: Rpc[Q, R], request: Q, kind: EntryKind) -> Operation[Receipt]:
    """Call an *rpc* that records one entry of *kind*; return its receipt."""
    response = yield from call(context, rpc, request)
    return read_receipt(response.receipt, kinds=(kind,), trust=context.trust)
