"""The messages of Envoy's external authorization that the gate reads and writes, made from their field numbers."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

_TEXT, _BYTES, _NUMBER, _MESSAGE = 9, 12, 5, 11
_PACKAGE = "consentd.tests.envoy"
_MESSAGES: dict[str, list[tuple[str, int, int, str, bool]]] = {
    # name, number, type, message, whether it is repeated
    "CheckRequest": [("attributes", 1, _MESSAGE, "Attributes", False)],
    "Attributes": [
        ("source", 1, _MESSAGE, "Peer", False), ("request", 4, _MESSAGE, "Request", False),
        ("metadata_context", 11, _MESSAGE, "Metadata", False),
    ],
    "Peer": [("principal", 4, _TEXT, "", False)],
    "Request": [("http", 2, _MESSAGE, "Http", False)],
    "Http": [
        ("method", 2, _TEXT, "", False), ("headers", 3, _MESSAGE, "Header", True), ("path", 4, _TEXT, "", False),
        ("host", 5, _TEXT, "", False), ("header_map", 13, _MESSAGE, "HeaderMap", False),
    ],
    "HeaderMap": [("headers", 1, _MESSAGE, "Header", True)],
    "Header": [("key", 1, _TEXT, "", False), ("value", 2, _TEXT, "", False), ("raw_value", 3, _BYTES, "", False)],
    "Metadata": [("filter_metadata", 1, _MESSAGE, "Filter", True)],
    "Filter": [("key", 1, _TEXT, "", False), ("value", 2, _MESSAGE, ".google.protobuf.Struct", False)],
    "CheckResponse": [
        ("status", 1, _MESSAGE, "Status", False), ("denied_response", 2, _MESSAGE, "Denied", False),
        ("ok_response", 3, _MESSAGE, "Ok", False), ("dynamic_metadata", 4, _MESSAGE, ".google.protobuf.Struct", False),
    ],
    "Status": [("code", 1, _NUMBER, "", False)],
    "Denied": [("status", 1, _MESSAGE, "HttpStatus", False), ("headers", 2, _MESSAGE, "Option", True)],
    "HttpStatus": [("code", 1, _NUMBER, "", False)],
    "Ok": [("headers", 2, _MESSAGE, "Option", True), ("headers_to_remove", 5, _TEXT, "", True)],
    "Option": [("header", 1, _MESSAGE, "Header", False)],
}  # fmt: skip


def _make() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="consentd/tests/envoy.proto", package=_PACKAGE, syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of, repeated in fields:
            label: Any = 3 if repeated else 1
            added = message.field.add(name=field, number=number, label=label)
            added.type = kind  # type: ignore[assignment]  # a number of the enum
            if of:
                added.type_name = of if of.startswith(".") else f".{_PACKAGE}.{of}"
    pool = descriptor_pool.Default()
    pool.Add(file)
    found = pool.FindFileByName(file.name)
    return {name: message_factory.GetMessageClass(one) for name, one in found.message_types_by_name.items()}


_CLASSES = _make()
CheckRequest: Any = _CLASSES["CheckRequest"]
CheckResponse: Any = _CLASSES["CheckResponse"]


def check_request(
    path: str, *headers: tuple[str, str], method: str = "GET", host: str = "", principal: str = "",
    token: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Return what Envoy asks about a request. *token*: what a verified token says, by the key ``login``."""
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal, attributes.request.http.host = principal, host
    attributes.request.http.method, attributes.request.http.path = method, path
    for name, value in headers:
        attributes.request.http.header_map.headers.add(key=name, raw_value=value.encode())
    tokens = attributes.metadata_context.filter_metadata.add(key="envoy.filters.http.jwt_authn")
    tokens.value.update({"login": token or {}})
    return request


def headers_of(response: Any) -> dict[str, str]:
    """Return the headers of a response: for the server if the request passes, else for the client."""
    part = response.ok_response if response.status.code == 0 else response.denied_response
    return {one.header.key: one.header.value for one in part.headers}
