"""Several servers as one: what they are capable of, and what they list, as far as a token may use it."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tolsey.gateway.mcp.asking import UNREACHABLE, Reply, ask
from tolsey.gateway.mcp.messages import Members, Message, read_members
from tolsey.gateway.mcp.relay import MAX_ANSWER
from tolsey.gateway.mcp.servers import PROMPT, RESOURCE, Endpoint, Server, is_name
from tolsey.gateway.mcp.sessions import Opened, Session
from tolsey.gateway.request import Request

LISTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "tools/list": ("tools", "name", ""),
    "resources/list": ("resources", "uri", RESOURCE),
    "resources/templates/list": ("resourceTemplates", "uriTemplate", RESOURCE),
    "prompts/list": ("prompts", "name", PROMPT),
}
"""The methods that list: where the items stand, what each is called by, what stands before that in a `tool` caveat."""

MAX_PAGES: Final = 100
MAX_ITEMS: Final = 10_000
"""The most that one server may list."""

VERSIONS: Final = ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26")
"""The versions of the protocol that are known to pass here, the newest first."""

_decode = msgspec.json.decode


class Asker:
    """Asks the servers of an endpoint on behalf of one request."""

    def __init__(self, endpoint: Endpoint, request: Request, session: Session | None, peer: str) -> None:
        self.endpoint = endpoint
        self._request = request
        self._session = session
        self._peer = peer

    def opened(self, server: Server) -> Opened | None:
        """The session with a server, None where the client shows none."""
        return None if self._session is None else self._session.get(server.name)

    def reachable(self) -> list[Server]:
        """The servers that the session was opened with; all where there is no session."""
        return [s for s in self.endpoint.servers if self._session is None or s.name in self._session]

    async def one(self, server: Server, body: bytes, method: str = "POST") -> Reply | None:
        """What a server says to one message; None if it cannot be asked."""
        try:
            return await ask(server, self._request, self.opened(server), body, method=method, peer=self._peer)
        except UNREACHABLE:
            return None

    async def all(self, body: bytes, method: str = "POST") -> list[tuple[Server, Reply | None]]:
        """What each server says to one message."""
        servers = self.reachable()
        return list(zip(servers, await asyncio.gather(*(self.one(s, body, method) for s in servers)), strict=True))

    async def listed(self, message: Message, shown: Callable[[Server, str], bool]) -> Members | Message | None:
        """The result of a list: the items of all servers that are `shown` to the client. The error of a server that is
        the only one; None if none could be asked.
        """
        member, key, kind = LISTS[message.method or ""]
        pages = await asyncio.gather(*(self._pages(server, message, member) for server in self.reachable()))
        base: Members | Message | None = None
        items: list[object] = []
        seen: set[str] = set()
        for server, found in zip(self.reachable(), pages, strict=True):
            if isinstance(found, Message) and base is None:
                base = found
            if found is None or isinstance(found, Message):
                continue
            result, own = found
            if not isinstance(base, dict):
                base = result
            for item in own:
                name = _name(item, key)
                if name is None or not is_name(name, kind):
                    continue
                outer = server.outer_uri(name) if kind == RESOURCE else server.outer(name)
                # Of two that are called the same, nobody could say which is meant.
                if outer in seen or not shown(server, kind + outer):
                    continue
                seen.add(outer)
                items.append(item if outer == name else {**read_members(item), key: outer})
        if not isinstance(base, dict):
            return base
        base = {name: value for name, value in base.items() if name != "nextCursor"}
        if self.endpoint.only is None:
            base.pop("_meta", None)
        if "cacheScope" in base:
            # What a token may use is nobody else's list.
            base["cacheScope"] = msgspec.Raw(b'"private"')
        base[member] = msgspec.Raw(msgspec.json.encode(items))
        return base

    async def _pages(
        self, server: Server, message: Message, member: str
    ) -> tuple[Members, list[msgspec.Raw]] | Message | None:
        first: Members | None = None
        items: list[msgspec.Raw] = []
        size = 0
        cursor: object = None
        for _ in range(MAX_PAGES):
            params = {} if cursor is None else {"cursor": cursor}
            inner = {name: value for name, value in message.inner().items() if name != "cursor"}
            asked = message.written(id=secrets.token_hex(8), params={**inner, **params})
            reply = await self.one(server, asked)
            if reply is None or reply.message is None:
                break
            if "result" not in reply.message.members:
                return reply.message if first is None else (first, items)
            try:
                result = read_members(reply.message.members["result"])
                page = _decode(result.get(member, b"[]"), type=list[msgspec.Raw])
                cursor = _decode(result["nextCursor"], type=str) if "nextCursor" in result else None
            except msgspec.DecodeError:
                break
            first = first or result
            items += page
            size += len(bytes(reply.message.members["result"]))
            if not cursor or len(items) > MAX_ITEMS or size > MAX_ANSWER:
                break
        return None if first is None else (first, items[:MAX_ITEMS])


def _name(item: msgspec.Raw, key: str) -> str | None:
    try:
        return _decode(read_members(item)[key], type=str)
    except (msgspec.DecodeError, KeyError):
        return None


def merged_opening(results: Sequence[tuple[Server, Mapping[str, Any]]], version: str) -> dict[str, object]:
    """The answer to `initialize`, where several servers gave one each."""
    found: dict[str, object] = {
        "protocolVersion": min(str(result.get("protocolVersion", "")) for _, result in results),
        "capabilities": _capabilities([result.get("capabilities") for _, result in results]),
        "serverInfo": {"name": "tolsey", "version": version},
    }
    return found | _instructions(results)


def merged_discovery(results: Sequence[tuple[Server, Mapping[str, Any]]], version: str) -> dict[str, object] | None:
    """The answer to `server/discover`, where several servers gave one each; None if they share no version."""
    versions = [result.get("supportedVersions") for _, result in results]
    shared = [v for v in VERSIONS if all(isinstance(known, list) and v in known for known in versions)]
    if not shared:
        return None
    found: dict[str, object] = {
        "resultType": "complete",
        "supportedVersions": shared,
        "capabilities": _capabilities([result.get("capabilities") for _, result in results]),
        "serverInfo": {"name": "tolsey", "version": version},
        "ttlMs": 0,
        "cacheScope": "private",
    }
    return found | _instructions(results)


def _instructions(results: Sequence[tuple[Server, Mapping[str, Any]]]) -> dict[str, object]:
    texts = [(server.name, result.get("instructions")) for server, result in results]
    joined = "\n\n".join(f"{name}: {text}" for name, text in texts if isinstance(text, str) and text)
    return {"instructions": joined} if joined else {}


def _capabilities(several: Sequence[object]) -> dict[str, object]:
    """What at least one can do, of what can be told apart by names: not tasks, and no extensions."""
    found: dict[str, object] = {}
    for kind in ("tools", "resources", "prompts", "logging", "completions"):
        has = [one[kind] for one in several if isinstance(one, dict) and isinstance(one.get(kind), dict)]
        if has:
            flags = {flag for one in has for flag, value in one.items() if value is True}
            found[kind] = dict.fromkeys(sorted(flags & {"listChanged", "subscribe"}), True)
    return found
