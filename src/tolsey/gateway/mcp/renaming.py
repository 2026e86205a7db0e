"""What passes between a client and one of several servers: names and ids that are the server's own, and how clients see
them. With one server nothing is renamed, and what passes, passes byte for byte.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from tolsey.gateway.mcp.messages import Message, read_message
from tolsey.gateway.mcp.servers import Endpoint, Server
from tolsey.pricing.document import read_document, write_document


class Renaming:
    """Of one server's messages."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def downward(self, message: Message) -> bytes | None:
        """A message on its way to the client; None if it goes as it came."""
        if message.method is not None:
            if message.id is not None:
                # An id of the server's choice: the answer to it has to find its way back.
                return message.written(id=f"{self._server.name}:{message.id.decode('utf-8')}")
            if message.method == "notifications/resources/updated" and isinstance(message.params.get("uri"), str):
                return message.written({"uri": self._server.outer_uri(str(message.params["uri"]))})
            return None
        if "result" not in message.members:
            return None
        result = read_document(bytes(message.members["result"]))
        if not isinstance(result, dict) or not self._rename(result):
            return None
        return message.written(result=msgspec.Raw(write_document(result)))

    def _rename(self, result: Mapping[str, object]) -> bool:
        """Put the URIs of a result's contents as clients see them; whether there were any."""
        blocks = [*_items(result, "content"), *_items(result, "contents")]
        for message in _items(result, "messages"):
            content = message.get("content")
            blocks += [cast("dict[str, Any]", content)] if isinstance(content, dict) else _items(message, "content")
        found = False
        for block in blocks:
            inner = block.get("resource") if block.get("type") == "resource" else block
            if isinstance(inner, dict) and isinstance(inner.get("uri"), str):
                inner["uri"] = self._server.outer_uri(inner["uri"])
                found = True
        return found


def _items(holder: Mapping[str, object], name: str) -> Sequence[dict[str, Any]]:
    items = holder.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def upward(endpoint: Endpoint, message: Message) -> tuple[Server, bytes] | None:
    """To which server a client's answer goes, and as what; None if no server asked."""
    if endpoint.only is not None:
        return endpoint.only, message.written()
    identifier = msgspec.json.decode(message.id or b"null")
    if not isinstance(identifier, str):
        return None
    name, _, inner = identifier.partition(":")
    server = next((server for server in endpoint.servers if server.name == name), None)
    if server is None:
        return None
    written = message.written(id=msgspec.Raw(inner.encode("utf-8")))
    again = read_message(written)
    return None if not isinstance(again, Message) else (server, written)
