"""The part of Envoy's API that is spoken here: `envoy.service.auth.v3` and `envoy.service.accesslog.v3`, with what they
use of `envoy.config.core.v3`, `envoy.data.accesslog.v3`, `google.rpc` and `google.protobuf`.

Numbers and types are those of the .proto files of Envoy's data-plane-api. What is not named here is skipped when a
message is read, as protobuf has it. A map is written as what it is on the wire, a list of pairs. Needs the extra
`tolsey[grpc]`.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CHECK: Final = "envoy.service.auth.v3.Authorization"
LOGS: Final = "envoy.service.accesslog.v3.AccessLogService"
"""The services."""

Wire = Any
"""A message of this API. The classes are made when this is imported, so that there are no types for their members."""

_PACKAGE: Final = "tolsey.envoy"

_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "AttributeContext": {"source": (1, "Peer"), "request": (4, "Request")},
    "Peer": {"address": (1, "Address")},
    "Address": {"socket_address": (1, "SocketAddress")},
    "SocketAddress": {"address": (2, "string")},
    "Request": {"http": (2, "HttpRequest")},
    "HttpRequest": {
        "method": (2, "string"),
        "headers": (3, "*Pair"),
        "path": (4, "string"),
        "host": (5, "string"),
        "scheme": (6, "string"),
        "body": (11, "string"),
        "raw_body": (12, "bytes"),
        "header_map": (13, "HeaderMap"),
    },
    "Pair": {"key": (1, "string"), "value": (2, "string")},
    "HeaderMap": {"headers": (1, "*HeaderValue")},
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append_action": (3, "uint32")},
    "CheckResponse": {
        "status": (1, "Status"),
        "denied_response": (2, "DeniedHttpResponse"),
        "ok_response": (3, "OkHttpResponse"),
        "dynamic_metadata": (4, "Struct"),
    },
    "Status": {"code": (1, "int32"), "message": (2, "string")},
    "HttpStatus": {"code": (1, "uint32")},
    "DeniedHttpResponse": {"status": (1, "HttpStatus"), "headers": (2, "*HeaderValueOption"), "body": (3, "string")},
    "OkHttpResponse": {
        "headers": (2, "*HeaderValueOption"),
        "headers_to_remove": (5, "*string"),
        "response_headers_to_add": (6, "*HeaderValueOption"),
    },
    "Struct": {"fields": (1, "*Field")},
    "Field": {"key": (1, "string"), "value": (2, "Value")},
    "Value": {"string_value": (3, "string")},
    "StreamAccessLogsMessage": {"http_logs": (2, "HTTPAccessLogEntries")},
    "StreamAccessLogsResponse": {},
    "HTTPAccessLogEntries": {"log_entry": (1, "*HTTPAccessLogEntry")},
    "HTTPAccessLogEntry": {
        "common_properties": (1, "AccessLogCommon"),
        "request": (3, "HTTPRequestProperties"),
        "response": (4, "HTTPResponseProperties"),
    },
    "AccessLogCommon": {
        "time_to_first_upstream_tx_byte": (7, "Duration"),
        "metadata": (17, "Metadata"),
        "duration": (23, "Duration"),
        "upstream_request_attempt_count": (24, "uint32"),
        "intermediate_log_entry": (27, "bool"),
        "upstream_wire_bytes_sent": (31, "uint64"),
        "access_log_type": (33, "uint32"),
    },
    "Duration": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Metadata": {"filter_metadata": (1, "*Filter")},
    "Filter": {"key": (1, "string"), "value": (2, "Struct")},
    "HTTPRequestProperties": {"request_body_bytes": (12, "uint64")},
    "HTTPResponseProperties": {
        "response_code": (1, "UInt32Value"),
        "response_body_bytes": (3, "uint64"),
        "response_headers": (4, "*Pair"),
    },
    "UInt32Value": {"value": (1, "uint32")},
}
"""Each message's fields: number and type, `*` before those that are repeated."""


def _build() -> Mapping[str, Any]:
    """The classes, in a pool of their own: whoever else has Envoy's API in this process is not in the way."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            made = message.field.add(name=label, number=number)
            made.label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            one = kind.removeprefix("*")
            if one in _MESSAGES:
                made.type, made.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{one}"
            else:
                made.type = field.Type.Value(f"TYPE_{one.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_classes = _build()

CheckRequest: Final = _classes["CheckRequest"]
CheckResponse: Final = _classes["CheckResponse"]
HTTPAccessLogEntry: Final = _classes["HTTPAccessLogEntry"]
StreamAccessLogsMessage: Final = _classes["StreamAccessLogsMessage"]
StreamAccessLogsResponse: Final = _classes["StreamAccessLogsResponse"]
"""What is asked, what is answered, a line of a log, what a log sends, and what it gets."""
