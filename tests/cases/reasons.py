"""The gRPC code of each error reason, as the comments of ``error_reason.proto`` state them: the one place that does."""

import re
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import status_pb2
from grpc import StatusCode

TEXT = (Path(__file__).resolve().parents[2] / "proto/consentd/v1/error_reason.proto").read_text()
_VALUE = re.compile(r"((?:^  //.*\n)+)  ERROR_REASON_([A-Z_]+) = [1-9]\d*;", re.MULTILINE)
_CODE = re.compile(r"\(([A-Z]+(?:_[A-Z]+)*)(, with RetryInfo)?\)")


@dataclass(frozen=True, slots=True)
class Documented:
    """What the comment of a reason says of it."""

    code: StatusCode
    has_retry_info: bool


def _documented(name: str, comment: str) -> Documented:
    text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
    assert text.startswith(f"ERROR_REASON_{name}: "), text
    found = [match for match in _CODE.finditer(text) if match[1] in StatusCode.__members__]
    assert len(found) == 1, f"a reason has exactly one code: {text}"
    return Documented(StatusCode[found[0][1]], bool(found[0][2]))


REASONS = {name: _documented(name, comment) for comment, name in _VALUE.findall(TEXT)}
"""Reason, without its prefix, to what is documented of it."""


class ItemError(grpc.RpcError):
    """The status of an item of a batch, in the form of a failed call."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self._status = status

    def code(self) -> StatusCode:
        (code,) = (code for code in StatusCode if code.value[0] == self._status.code)
        return code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("grpc-status-details-bin", self._status.SerializeToString()),)
