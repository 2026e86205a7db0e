"""An MCP endpoint over Streamable HTTP: who may speak to it, and what becomes of each message.

What is a call (a tool's, the reading of a resource, a prompt) goes through the passage like any other; everything else
needs a token that may be used here, and is free. Nothing but a call can cost, and nothing that is not known to be free
passes without a price.
"""

from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec

from tolsey.call import Call, parse_pattern
from tolsey.errors import Refusal
from tolsey.gateway.client import Client
from tolsey.gateway.mcp.agent_tools import LISTED, use
from tolsey.gateway.mcp.asking import NAME, SESSION, headers_for, target_of
from tolsey.gateway.mcp.merging import LISTS, Asker, merged_discovery, merged_opening
from tolsey.gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Fault,
    Message,
    json_headers,
    read_message,
    refused,
    response_of,
    write_result,
)
from tolsey.gateway.mcp.names import header_fault, named
from tolsey.gateway.mcp.relay import Via
from tolsey.gateway.mcp.renaming import Renaming, upward
from tolsey.gateway.mcp.servers import METHOD, NAMED, Endpoint, Server
from tolsey.gateway.mcp.sessions import Opened, Session
from tolsey.gateway.messages import whole_body
from tolsey.gateway.passage import Passage
from tolsey.gateway.request import Request, call_of
from tolsey.gateway.routes import Mode, Route
from tolsey.pricing.tariff import Tariff
from tolsey.token.caveats import Tool, Upstream
from tolsey.token.chain import Chain
from tolsey.token.clearing import clear

BODY_SECONDS: Final = 60.0
"""How many seconds of silence are borne while a message arrives."""

_ACCEPTED: Final = 202
_FREE: Final = frozenset({"completion/complete", "resources/subscribe", "resources/unsubscribe"})
"""What is about one thing that has a name, and goes to its server without a price."""

_ABSENT: Final = Refusal("route_missing", "there is no such session, or its token is another; begin with initialize")


async def answer_mcp(passage: Passage, endpoint: Endpoint, request: Request, client: Client) -> None:
    """Answer one request to an endpoint."""
    client.record.own = True
    client.render = partial(response_of, None)
    refusal = _from_elsewhere(endpoint, request) or _wrong_method(request)
    if refusal is not None:
        await client.refuse(refusal)
        return
    call = call_of(request, passage.trusted_proxies, client.record.at)
    chain = await _holder(passage, endpoint, request, client, call)
    if isinstance(chain, Refusal):
        await client.refuse(chain)
        return
    link = "" if chain is None else chain.links[-1].prefix_id
    text = next((value for name, value in request.headers if name == SESSION), None)
    session = None if text is None else endpoint.sessions.open(text.decode("latin-1"), endpoint.path, link)
    if text is not None and session is None:
        await client.refuse(_ABSENT)
        return
    exchange = _Conversation(passage, endpoint, request, client, call, chain, session)
    if request.method == "DELETE":
        await exchange.end()
        return
    body = await whole_body(request, client, endpoint.max_body, BODY_SECONDS)
    if isinstance(body, Refusal):
        await client.refuse(body)
        return
    message = read_message(body)
    if isinstance(message, Fault):
        await exchange.fault(None, message)
        return
    client.render = partial(response_of, message.id)
    client.last_words = lambda refusal: b"event: message\ndata: " + refused(message.id, refusal) + b"\n\n"
    await exchange.take(message)


def _from_elsewhere(endpoint: Endpoint, request: Request) -> Refusal | None:
    """Why a request may come from a web page that has no business here (DNS rebinding)."""
    host = request.host.decode("latin-1").lower()
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if endpoint.hosts is not None and name not in endpoint.hosts:
        return Refusal("origin_refused", "this endpoint is not called by that host name; see `hosts` in its config")
    origins = [value.decode("latin-1").lower() for header, value in request.headers if header == b"origin"]
    if origins and (len(origins) > 1 or origins[0] not in endpoint.origins):
        return Refusal("origin_refused", "web pages of that origin may not call this endpoint")
    return None


def _wrong_method(request: Request) -> Refusal | None:
    if request.query:
        return Refusal("request_invalid", "an MCP endpoint has no query")
    if request.method not in ("POST", "DELETE"):
        return Refusal("method_not_allowed", "messages are sent by POST", allow=("POST", "DELETE"))
    if request.method == "POST":
        kinds = [value.split(b";")[0].strip().lower() for name, value in request.headers if name == b"content-type"]
        if kinds != [b"application/json"]:
            return Refusal("request_invalid", "messages are sent as application/json")
        if any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in request.headers):
            return Refusal("request_invalid", "messages are not compressed")
    return None


async def _holder(
    passage: Passage, endpoint: Endpoint, request: Request, client: Client, call: Call
) -> Chain | Refusal | None:
    """Who speaks; None for somebody without a usable token where calls are only observed. Which tools a token is for
    is asked where one is named.
    """
    chain = passage.chain_of(request, client.record)
    if not isinstance(chain, Refusal):
        refusal = await passage.revocations.check(chain)
        if refusal is None:
            cleared = clear(chain, call, leaving=(Tool, Upstream))
            refusal = cleared if isinstance(cleared, Refusal) else None
        if refusal is None:
            return chain
        chain = refusal
    return None if endpoint.mode is Mode.OBSERVE else chain


class _Conversation:
    """One message and what becomes of it. `chain` is None for a stranger whose calls are observed."""

    def __init__(
        self,
        passage: Passage,
        endpoint: Endpoint,
        request: Request,
        client: Client,
        call: Call,
        chain: Chain | None,
        session: Session | None,
    ) -> None:
        self._passage = passage
        self._endpoint = endpoint
        self._request = request
        self._client = client
        self._call = call
        self._chain = chain
        self._asker = Asker(endpoint, request, session, call.peer)

    async def take(self, message: Message) -> None:
        """Answer one message."""
        if message.method is None:
            await self._pass_answer(message)
        elif message.id is None:
            await self._notify(message)
        elif message.method == "ping":
            await self._say(write_result(message.id, {}))
        elif message.method in ("initialize", "server/discover"):
            await self._open(message, message.id)
        elif message.method in LISTS:
            await self._list(message, message.id)
        elif message.method == "logging/setLevel":
            await self._tell_all(message, message.id)
        else:
            await self._call_or_ask(message, message.id, message.method)

    async def _say(self, body: bytes, status: int = 200, *more: tuple[bytes, bytes]) -> None:
        await self._client.whole(status, [*json_headers(body), (b"cache-control", b"no-store"), *more], body)

    async def _accepted(self) -> None:
        await self._client.whole(_ACCEPTED, [(b"content-length", b"0")], b"")

    async def fault(self, identifier: bytes | None, fault: Fault) -> None:
        """Say what is wrong with a message."""
        self._client.render = partial(response_of, identifier, code=fault.code)
        await self._client.refuse(Refusal("request_invalid", fault.detail))

    async def _unknown(self, identifier: bytes, method: str) -> None:
        # A client of 2026-07-28 tells a server of before by a 404 that is not JSON-RPC's, and one of before takes a
        # 404 for the end of its session.
        modern = any(name == b"mcp-method" for name, _ in self._request.headers)
        refusal = Refusal("request_invalid", f"the method {method[:64]!r} is not known here, or has no price")
        self._client.record.refusal = refusal
        await self._say(refused(identifier, refusal, code=METHOD_NOT_FOUND), 404 if modern else 200)

    async def end(self) -> None:
        """End a session, as far as its servers do."""
        await self._asker.all(b"", "DELETE")
        await self._client.whole(200, [(b"content-length", b"0")], b"")

    async def _notify(self, message: Message) -> None:
        await self._asker.all(message.written())
        await self._accepted()

    async def _pass_answer(self, message: Message) -> None:
        found = upward(self._endpoint, message)
        if found is None:
            await self.fault(message.id, Fault(INVALID_PARAMS, "no server asked what this answers"))
            return
        await self._asker.one(*found)
        await self._accepted()

    async def _tell_all(self, message: Message, identifier: bytes) -> None:
        said = [reply.message for _, reply in await self._asker.all(message.written()) if reply and reply.message]
        done = next((m for m in said if "result" in m.members), said[0] if said else None)
        if done is None:
            await self._client.refuse(Refusal("upstream_failed", "no server could be asked"))
            return
        await self._say(done.written(id=msgspec.Raw(identifier)))

    async def _open(self, message: Message, identifier: bytes) -> None:
        """`initialize` and `server/discover`: ask every server, and be one."""
        replies = await self._asker.all(message.written())
        answers = [(server, reply) for server, reply in replies if reply is not None and reply.message is not None]
        results = [
            (server, reply, msgspec.json.decode(reply.message.members["result"], type=dict))
            for server, reply in answers
            if reply.message is not None and "result" in reply.message.members
        ]
        first = answers[0][1].message if answers else None
        if first is None:
            await self._client.refuse(Refusal("upstream_failed", "no server could be asked"))
            return
        if self._endpoint.only is not None or not results:
            body: bytes = first.written(id=msgspec.Raw(identifier))
            status = answers[0][1].status
        else:
            several = [(server, result) for server, _, result in results]
            merge = merged_opening if message.method == "initialize" else merged_discovery
            all_can = message.method == "initialize" or len(several) == len(self._endpoint.servers)
            merged = merge(several, version("tolsey")) if all_can else None
            if merged is None:
                await self._unknown(identifier, message.method or "")
                return
            body, status = write_result(identifier, merged), 200
        if message.method != "initialize" or not results:
            await self._say(body, status if status < 500 else 200)
            return
        session = {
            server.name: Opened(reply.session, str(result.get("protocolVersion", "")))
            for server, reply, result in results
        }
        link = "" if self._chain is None else self._chain.links[-1].prefix_id
        sealed = self._endpoint.sessions.seal(session, self._endpoint.path, link)
        await self._say(body, 200, (SESSION, sealed.encode("ascii")))

    async def _list(self, message: Message, identifier: bytes) -> None:
        if message.params.get("cursor") is not None:
            await self.fault(identifier, Fault(INVALID_PARAMS, "there is one page, and no cursor"))
            return
        found = await self._asker.listed(message, self._shown)
        if found is None:
            await self._client.refuse(Refusal("upstream_failed", "no server could be asked"))
        elif isinstance(found, Message):
            await self._say(found.written(id=msgspec.Raw(identifier)))
        else:
            if message.method == "tools/list":
                own = [tool for name, tool in LISTED.items() if self._own_refusal(name) is None]
                found["tools"] = msgspec.Raw(
                    msgspec.json.encode([*msgspec.json.decode(found["tools"], type=list[msgspec.Raw]), *own])
                )
            await self._say(write_result(identifier, found))

    def _own_refusal(self, name: str) -> Refusal | None:
        """Why one of the gateway's own tools may not be used."""
        if not self._endpoint.agent_tools:
            return Refusal("route_missing", "this endpoint has no tools of the gateway's own")
        if self._chain is None:
            return Refusal("token_missing", "this is about a token, and there is none that can be used")
        found = clear(self._chain, self._call._replace(tool=name), leaving=(Upstream,))
        return found if isinstance(found, Refusal) else None

    async def _use_own(self, identifier: bytes, message: Message, name: str) -> None:
        found = self._own_refusal(name)
        if found is None and self._chain is not None:
            arguments = message.params.get("arguments", {})
            answer = await use(self._passage, self._request, self._chain, name, arguments)
            if not isinstance(answer, Refusal):
                await self._say(write_result(identifier, answer))
                return
            found = answer
        if found is not None:
            await self._client.refuse(found)

    def _is_own(self, name: str) -> bool:
        return self._endpoint.agent_tools and name in LISTED

    def _shown(self, server: Server, name: str) -> bool:
        """Whether a client is shown what it could call: what the endpoint has a price for and its token is for."""
        if self._is_own(name):
            # A server's of that name could not be called.
            return False
        if self._endpoint.mode is Mode.OBSERVE:
            return True
        return self._endpoint.is_priced(name) and self._refusal(server, name) is None

    def _refusal(self, server: Server, name: str) -> Refusal | None:
        if self._chain is None:
            return None
        found = clear(self._chain, self._call._replace(tool=name, upstream=server.name))
        return found if isinstance(found, Refusal) else None

    async def _call_or_ask(self, message: Message, identifier: bytes, method: str) -> None:
        fault = header_fault(self._request, message)
        if fault is not None:
            await self.fault(identifier, Fault(HEADER_MISMATCH, fault))
            return
        name = named(message)
        if name is None and (method in NAMED or method in _FREE):
            await self.fault(identifier, Fault(INVALID_PARAMS, f"{method} needs the name of what it is about"))
            return
        if method == "tools/call" and name is not None and self._is_own(name):
            await self._use_own(identifier, message, name)
            return
        only = self._endpoint.only
        if name is None and only is not None:
            name = METHOD + method
            found: tuple[Server, str] | None = (only, method) if self._endpoint.is_priced(name) else None
        else:
            found = None if name is None else self._endpoint.split(name)
        if name is None or (found is None and name.startswith(METHOD)):
            await self._unknown(identifier, method)
            return
        if found is None:
            await self.fault(identifier, Fault(INVALID_PARAMS, f"nothing is called {name[:128]!r} here"))
            return
        server, inner = found
        body = message.written(_renamed(message, method, server, inner))
        if method in _FREE:
            await self._ask_freely(identifier, server, name, body)
        else:
            await self._call_it(identifier, message, server, name, inner, body)

    async def _ask_freely(self, identifier: bytes, server: Server, name: str, body: bytes) -> None:
        refusal = self._refusal(server, name)
        if refusal is not None:
            await self._client.refuse(refusal)
            return
        reply = await self._asker.one(server, body)
        if reply is None or reply.message is None:
            await self._client.refuse(Refusal("upstream_failed", "the server could not be asked"))
            return
        await self._say(reply.message.written(id=msgspec.Raw(identifier)))

    async def _call_it(
        self, identifier: bytes, message: Message, server: Server, name: str, inner: str, body: bytes
    ) -> None:
        """What can cost: through the passage, like any call."""
        endpoint, request, client = self._endpoint, self._request, self._client
        arguments = message.params.get("arguments", {})
        price = endpoint.price_of(name, arguments)
        tariff = Tariff(None) if price is None else price.tariff_for(arguments)
        if isinstance(tariff, Refusal):
            await client.refuse(tariff)
            return
        client.record.own = False
        client.record.tool = name
        client.instead(body)
        route = Route(
            parse_pattern(endpoint.path),
            ("POST",),
            Via(server.upstream, identifier, None if endpoint.only is not None else Renaming(server)),
            endpoint.mode,
            tariff,
            None,
            server.upstream.timeout,
            endpoint.max_duration,
        )
        named_up = inner if any(header == NAME for header, _ in request.headers) else None
        up = msgspec.structs.replace(
            request,
            path=target_of(server).decode("ascii"),
            headers=headers_for(request, self._asker.opened(server), named_up),
            size=len(body),
        )
        await self._passage.take(up, client, route, self._call._replace(tool=name, upstream=server.name), self._chain)


def _renamed(message: Message, method: str, server: Server, inner: str) -> dict[str, object]:
    """The params that name what a message is about, as the server calls it."""
    if method in NAMED:
        return {NAMED[method][0]: inner}
    if method in ("resources/subscribe", "resources/unsubscribe"):
        return {"uri": inner}
    if method == "completion/complete":
        reference = message.params["ref"]
        key = "uri" if isinstance(reference, dict) and "uri" in reference else "name"
        return {"ref": {**reference, key: inner}} if isinstance(reference, dict) else {}
    return {}
