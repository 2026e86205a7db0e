"""One end of a connection that speaks HTTP/1.1 byte by byte, so that a test says and hears exactly what it means to."""

import contextlib
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass, replace
from typing import Final

SECONDS: Final = 10.0
"""How long an end waits for the other before the test fails."""


class Broken(Exception):
    """The other end closed or reset in the middle of something. `got` is what came of it."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"the other end broke off after {got[-200:]!r}")
        self.got = got


@dataclass(frozen=True)
class Message:
    """A request or a response: its head as it came, and its body with the framing taken off."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> str:
        """The first line."""
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        """The status of a response."""
        version, status = self.line.split(" ")[:2]
        assert version in ("HTTP/1.1", "HTTP/1.0"), self.head
        return int(status)

    @property
    def target(self) -> str:
        """The target of a request."""
        return self.line.split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case, in the order they came."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: str) -> str:
        """The value of a header that is there once."""
        (value,) = self.all(name)
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


class End:
    """One end of a TCP connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._got = b""
        sock.settimeout(SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, *pieces: bytes | str) -> None:
        """Send bytes as they are; text is Latin-1."""
        self.socket.sendall(b"".join(p.encode("latin-1") if isinstance(p, str) else p for p in pieces))

    def pour(self, piece: bytes, times: int) -> None:
        """Send the same bytes again and again."""
        for _ in range(times):
            self.socket.sendall(piece)

    def _more(self) -> None:
        try:
            piece = self.socket.recv(256 * 1024)
        except ConnectionError:
            piece = b""
        if not piece:
            raise Broken(self._got)
        self._got += piece

    def until(self, mark: bytes) -> bytes:
        """What comes up to and including `mark`."""
        while mark not in self._got:
            self._more()
        end = self._got.index(mark) + len(mark)
        found, self._got = self._got[:end], self._got[end:]
        return found

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        pieces = [self._got[:size]]
        self._got = self._got[size:]
        missing = size - len(pieces[0])
        while missing:
            try:
                pieces.append(self.socket.recv(min(missing, 256 * 1024)))
            except ConnectionError:
                pieces.append(b"")
            if not pieces[-1]:
                raise Broken(b"".join(pieces))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def head(self) -> Message:
        """The next head."""
        return Message(self.until(b"\r\n\r\n"))

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" for the last one, whose trailers are read."""
        size = int(self.until(b"\r\n").split(b";")[0], 16)
        if size:
            return self.exactly(size + 2)[:-2]
        while self.until(b"\r\n") != b"\r\n":
            pass
        return b""

    def with_body(self, message: Message, *, to_end: bool = False) -> Message:
        """The message with its body; where nothing frames it, with what comes until the other end closes, or b""."""
        if message.all("transfer-encoding") == ["chunked"]:
            return replace(message, body=b"".join(iter(self.chunk, b"")))
        length = message.all("content-length")
        if length:
            return replace(message, body=self.exactly(int(length[0])))
        return replace(message, body=self.rest()) if to_end else message

    def fill(self, seconds: float = 0.5, most: int = 256 * 1024 * 1024) -> int:
        """Send zeros until nothing more is taken for a while; how many. Raises `Broken` when the other end is gone."""
        self.socket.settimeout(seconds)
        sent = 0
        try:
            while sent < most:
                sent += self.socket.send(bytes(1024 * 1024))
        except TimeoutError:
            pass
        except ConnectionError:
            raise Broken(b"") from None
        finally:
            self.socket.settimeout(SECONDS)
        return sent

    def rest(self) -> bytes:
        """Everything until the other end closes."""
        with contextlib.suppress(Broken):
            while True:
                self._more()
        found, self._got = self._got, b""
        return found

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing at all comes for a while, not even an end."""
        return not self._got and not select.select([self.socket], [], [], seconds)[0]

    def is_left(self, seconds: float = SECONDS) -> bool:
        """Whether the other end closes or resets, after whatever it still sends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                try:
                    self._more()
                except Broken:
                    return True
        return False

    def reset(self) -> None:
        """Close with a reset, as a process does that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close."""
        self.socket.close()


class Client(End):
    """The end of a client, over TLS where a context says how the other end is known."""

    def __init__(self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, source: str = "") -> None:
        sock = socket.create_connection((host, port), SECONDS, source_address=(source, 0))
        super().__init__(sock if tls is None else tls.wrap_socket(sock, server_hostname=host))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, method: str, target: str, *headers: str, token: str | None = None, body: bytes = b"") -> None:
        """Send a request. A body is announced by its length, unless the headers say otherwise."""
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test", *headers]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.say("\r\n".join(lines), "\r\n\r\n", body)

    def answer(self, *, to_head: bool = False) -> Message:
        """The whole response; `to_head` says that it is one without a body, whatever its headers announce."""
        head = self.head()
        if to_head or head.status in (204, 304):
            return head
        return self.with_body(head, to_end="close" in head.all("connection"))
