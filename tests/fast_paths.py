"""For the tests of the fast path: which calls took it, what the gateway has read, an upstream that plays scripts, and
all that a client can see of an answer.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.ends import Broken, Client, End, Message
from tests.gateways import Gateway, lay_out, serving, until
from tests.ports import free_port
from tests.scraping import Page, scrape
from tests.swarm import ending
from tests.upstreams import Upstream
from tolsey.gateway.native import LIBRARY, OFF

needs_wire: Final = pytest.mark.skipif(
    not LIBRARY.exists() or bool(os.environ.get(OFF)),
    reason=f"the compiled wire ({LIBRARY.name}) was not built, or {OFF} is set",
)

OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
LOOK_SECONDS: Final = 2.0
"""How long `look` waits for more of an answer before it calls it silent."""


def counted(gateway: Gateway, route: str, calls: int) -> int:
    """How many of this route's calls took the fast path, once so many are counted in all."""
    pages: list[Page] = []

    def of_route(metric: str) -> float:
        return pages[-1].value(metric, route=route)

    def all_there() -> bool:
        pages.append(scrape(gateway))
        return of_route("tolsey_calls_total") >= calls

    until(all_there, f"{calls} calls are counted")
    assert of_route("tolsey_calls_total") == calls
    return int(of_route("tolsey_fast_path_calls_total"))


def wait_until_read(gateway: Gateway, client: Client) -> None:
    """Wait until the gateway has read all that this client has sent, as the kernel knows it."""
    local, remote = f"0100007F:{gateway.port:04X}", f"{client.socket.getsockname()[1]:04X}"

    def is_read() -> bool:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[1] == local and words[2].endswith(f":{remote}"):
                return words[4].endswith(":00000000")
        return True

    until(is_read, "what was sent is read")


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: the next one is never answered."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def copy_keys(keys: Path, folder: Path) -> None:
    """Give another gateway the same keys, before either has used them."""
    (folder / "data").mkdir(mode=0o700)
    shutil.copy2(keys, folder / "data" / "keys")


def request(method: str, target: str, token: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as it is written."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test", f"Authorization: Bearer {token}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass(frozen=True)
class Script:
    """What an upstream does once it has a request: it says these pieces, a moment between each, and then it closes the
    connection, resets it, or keeps it for a next request.
    """

    pieces: tuple[bytes, ...] = (OK,)
    end: str = "close"


class Actor:
    """An upstream that answers every request by its `script`, but one for a path with `then` by OK. `busy` is how many
    requests it has not done with: with the last its connection is closed too, where the script closes it.
    """

    def __init__(self) -> None:
        self.script = Script()
        self.busy = 0
        self._counting = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end = End(self._listener.accept()[0])
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: End) -> None:
        end.socket.settimeout(None)
        with contextlib.suppress(Broken, OSError), contextlib.closing(end):
            while True:
                head = end.head()
                with self._at_work():
                    asked = end.with_body(head)
                    script = Script(end="keep") if "then" in asked.target else self.script
                    for number, piece in enumerate(script.pieces):
                        if number:
                            time.sleep(0.002)
                        end.say(piece)
                    if script.end == "reset":
                        end.reset()
                    if script.end != "keep":
                        end.close()
                        return

    def look(self, gateway: Gateway, asked: bytes, then: bytes) -> "Seen":
        """Make a request of which this is the upstream, on a connection of its own, and after an answer that is whole
        the request `then`, whose answer is OK where the connection goes on. Returns once this has done with both.
        """
        seen = _look(gateway, asked, then)
        # A connection that is about to be closed without a word would be used for the next call.
        until(lambda: self.busy == 0, "the upstream has done with the call")
        return seen

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._counting:
            self.busy += 1
        try:
            yield
        finally:
            with self._counting:
                self.busy -= 1


@dataclass(frozen=True)
class Seen:
    """What came of a request: the answer's first line ("" where there was none), its headers in their order, its body;
    whether it was `whole`, `broken` off or fell `silent`; and what is `after` it: the connection is closed, goes on...
    """

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    end: str
    after: str

    @property
    def status(self) -> int:
        """The status, 0 where there was no answer."""
        return int(self.line.split(" ")[1]) if self.line else 0

    @property
    def hold(self) -> str:
        """The hold that the answer names, "" for none."""
        return dict(self.headers).get("tolsey-hold", "")


def _look(gateway: Gateway, asked: bytes, then: bytes) -> Seen:
    with Client(gateway.port) as client:
        client.socket.settimeout(LOOK_SECONDS)
        client.say(asked)
        try:
            head = client.head()
        except (Broken, TimeoutError) as error:
            return Seen("", (), _got(error), _how(error), "closed")
        body: list[bytes] = []
        try:
            body.extend(_body(client, head, to_head=asked.startswith(b"HEAD ")))
        except (Broken, TimeoutError) as error:
            return Seen(head.line, tuple(head.headers), b"".join(body) + _got(error), _how(error), "closed")
        return Seen(head.line, tuple(head.headers), b"".join(body), "whole", _after(client, then))


def _how(error: Exception) -> str:
    return "broken" if isinstance(error, Broken) else "silent"


def _got(error: Exception) -> bytes:
    return error.got if isinstance(error, Broken) else b""


def _body(client: Client, head: Message, *, to_head: bool) -> Iterator[bytes]:
    if to_head or head.status in (204, 304):
        return
    if "chunked" in head.all("transfer-encoding"):
        yield from iter(client.chunk, b"")
    elif head.all("content-length"):
        yield client.exactly(int(head.all("content-length")[0]))
    else:
        yield client.rest()


def _after(client: Client, then: bytes) -> str:
    try:
        client.say(then)
        answer = client.answer()
    except (Broken, ConnectionError) as error:
        return f"closed after {_got(error)!r}" if _got(error) else "closed"
    except (TimeoutError, ValueError, AssertionError) as error:
        return f"garbled: {error!r}"
    return "goes on" if (answer.status, answer.body) == (200, b"{}") else f"garbled: {answer!r}"


# --- a gateway before a scriptable upstream

PLACES: Final = 80
CONFIG: Final = """
[server]
revoked_calls = "cut"
[ledger]
durability = "normal"
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "prefixed"
url = "http://127.0.0.1:<port>/v2"
[[upstream]]
name = "hasty"
url = "http://127.0.0.1:<port>"
timeout = 0.5
[[upstream]]
name = "gone"
url = "http://127.0.0.1:<gone>"
[[upstream]]
name = "full"
url = "http://127.0.0.1:<full>"
connect_timeout = 0.5
"""
ROUTE: Final = """
[[route]]
path = "/{name}/*"
methods = ["*"]
upstream = "{upstream}"
{more}
"""
PRICED: Final = 'price = "0.01 USD"'
SPECIAL: Final = {
    "open": ("plain", 'mode = "public"'),
    "watched": ("plain", f'{PRICED}\nmode = "observe"'),
    "free": ("plain", 'price = "0 USD"'),
    "timed": ("plain", f'{PRICED}\nprice_per_second = "0.001 USD"'),
    "sized": ("plain", 'price_per_response_mb = "1 USD"'),
    "dear": ("plain", 'price = "0.02 USD"'),
    "small": ("plain", f"{PRICED}\nmax_body = 10"),
    "lenient": ("plain", f'{PRICED}\ncharge = "success"'),
    "prefixed": ("prefixed", PRICED),
    "hasty": ("hasty", PRICED),
    "brisk": ("hasty", PRICED),
    "gone": ("gone", PRICED),
    "full": ("full", PRICED),
}


def config() -> str:
    """A config with all of these routes."""
    routes = [ROUTE.format(name=name, upstream=upstream, more=more) for name, (upstream, more) in SPECIAL.items()]
    routes += [ROUTE.format(name=f"p{number:02}", upstream="plain", more=PRICED) for number in range(PLACES)]
    return CONFIG + "".join(routes)


@contextlib.contextmanager
def serving_fast(folder: Path, upstream: Upstream) -> Iterator[Gateway]:
    """A gateway with these routes."""
    with (
        full_port() as full,
        serving(folder, config(), port=upstream.port, gone=free_port(), full=full) as running,
    ):
        yield running
        assert "Traceback" not in running.said()


@contextlib.contextmanager
def fresh_gateway(folder: Path, upstream: Upstream) -> Iterator[Gateway]:
    """A gateway with one route, /x/*, that was not started yet."""
    more = ROUTE.format(name="x", upstream="plain", more=PRICED)
    found = lay_out(folder, CONFIG + more, port=upstream.port, gone=1, full=1)
    with ending(found):
        yield found


def twice(gateway: Gateway, *asked: bytes) -> list[Message]:
    """The answers to each request, made twice on one connection."""
    with gateway.client() as client:
        found = []
        for each in asked * 2:
            client.say(each)
            found.append(client.answer(to_head=each.startswith(b"HEAD")))
        return found


def resolution(gateway: Gateway) -> tuple[str, int, str]:
    """How the latest hold was resolved, with how much, and what is noted of it."""
    entry = [entry for entry in gateway.entries() if entry.kind not in ("open", "reserve")][-1]
    return entry.kind, entry.amount, entry.note


def in_pieces(gateway: Gateway, *pieces: bytes) -> Message:
    """The answer to a request that comes in pieces, each read before the next one is sent."""
    with gateway.client() as client:
        for piece in pieces:
            client.say(piece)
            wait_until_read(gateway, client)
        return client.answer()


def answer_to(client: Client, asked: bytes) -> Message:
    """The answer to a request on a connection."""
    client.say(asked)
    return client.answer()


# --- answers of an upstream

HEAD: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LONG: Final = bytes(range(256)) * 400
ANSWERS: Final[dict[str, bytes | Script]] = {
    "a length": OK,
    "a length, and the connection is kept": Script(end="keep"),
    "a length of none": HEAD + b"Content-Length: 0\r\n\r\n",
    "a long body": HEAD + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG,
    "a length that is too long": HEAD + b"Content-Length: 20\r\n\r\n{}",
    "a great length that is too long": HEAD + b"Content-Length: 200000\r\n\r\n" + LONG,
    "chunks": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
    "chunks, and the connection is kept": Script((CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",), "keep"),
    "chunks in capitals": HEAD + b"TRANSFER-ENCODING:\tCHUNKED\r\n\r\nA\r\n0123456789\r\n000\r\n\r\n",
    "chunks of none": CHUNKED + b"0\r\n\r\n",
    "chunks with extensions": CHUNKED + b'2;a=b\r\n{}\r\n1;a;b="c;d"\r\n!\r\n0;e\r\n\r\n',
    "chunks with trailers": CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\nX-Other:\r\n\r\n",
    "until it closes": HEAD + b"\r\n{}",
    "until it closes, and nothing": HEAD + b"\r\n",
    "until it resets": Script((HEAD + b"\r\n{}",), "reset"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.0 that keeps": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.0 until it closes": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "no content": b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    "no content with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
    "no content with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}",
    "no content in chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
    "not modified with a length": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 200\r\n\r\n",
    "not modified with a body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n{}",
    "reset content": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    "three interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 x\r\n\r\nHTTP/1.1 199 x\r\nX: y\r\n\r\n" + OK,
    "an interim answer with a length": b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\n" + OK,
    "an interim answer with a body": b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\nhello" + OK,
    "an interim answer alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:PORT/v2/y?z\r\nContent-Length: 2\r\n\r\n{}",
    "a redirect within": b"HTTP/1.1 307 x\r\nLocation: /v2/y\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "a redirect that is too short": b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 9\r\n\r\n{}",
    "a redirect without content": b"HTTP/1.1 204 x\r\nLocation: /v2/a\r\nContent-Length: 9\r\n\r\n",
    "a failure": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
    "a failure in chunks": b"HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\noops\r\n0\r\n\r\n",
    "a failure that breaks off": b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\noops\r\n",
    "statuses that nobody knows": b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "failures that nobody knows": b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "a status beyond all": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",
    "an empty reason": b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\n{}",
    "headers oddly spaced": HEAD + b"x:a\r\nX-Y: \t a \t b \t\r\nX-Z:\r\nX_u: 1\r\ncontent-length:2 \r\n\r\n{}",
    "all that a name may have": HEAD + b"X!#$%&'*+-.^_`|~9: a\xe9\r\nContent-Length: 2\r\n\r\n{}",
    "a header that the connection names": HEAD + b"Connection: X-Hop, close\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\n{}",
    "headers that two lines name": HEAD + b"Connection: x-a\r\nConnection: x-b\r\nX-A: 1\r\nX-B: 2\r\n\r\n{}",
    "a length that the connection names": HEAD + b"Connection: content-length\r\nContent-Length: 2\r\n\r\n{}",
    "a date that the connection names": HEAD + b"Connection: date\r\nDate: x\r\nContent-Length: 2\r\n\r\n{}",
    "chunks that the connection names": HEAD + b"Connection: transfer-encoding\r\n" + CHUNKED[17:] + b"0\r\n\r\n",
    "what is of the connection": HEAD
    + b"Keep-Alive: x\r\nProxy-Connection: x\r\nTE: x\r\nTrailer: x\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n{}",
    "what is ours": HEAD + b"Tolsey-Cost: 0 USD\r\nTOLSEY-X: y\r\nXTolsey-Y: z\r\nContent-Length: 2\r\n\r\n{}",
    "dates and cookies": HEAD + b"Date: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\n{}",
    "bytes too many": OK + b"xx",
    "an answer too many": OK + OK,
    "an answer too many, and it is kept": Script((OK + OK,), "keep"),
    "nothing": b"",
    "nothing, and a reset": Script((), "reset"),
}

LARGE: Final[dict[str, bytes | Script]] = {
    "250 headers": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(250)) + b"Content-Length: 2\r\n\r\n{}",
    "300 headers": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"Content-Length: 2\r\n\r\n{}",
    "a header of 200 KB": HEAD + b"X: " + b"a" * 200_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "a header of 300 KB": HEAD + b"X: " + b"a" * 300_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
}
