"""An upstream for the tests: a real server that writes down every request byte by byte, and misbehaves when told.

A path with a segment `talk` is played by the test itself: `hear` hands over the request and the connection it came on.
Every other request is answered with 200 and `{}`, or as `answers` says for its target.
"""

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Iterator

from tests.ends import SECONDS, Broken, End, Message

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Talk(End):
    """A request that the test answers. `request` is its head; the body is still to be heard."""

    def __init__(self, end: End, request: Message) -> None:
        self.__dict__.update(end.__dict__)
        self.request = request
        self.ended = threading.Event()
        self._end = end

    def body(self) -> bytes:
        """The rest of the request's body."""
        return self.with_body(self.request).body

    def answers(self, answer: bytes = OK) -> None:
        """Give a whole answer."""
        self.say(answer)
        self.over()

    def over(self) -> None:
        """The answer is complete: the connection may take its next request."""
        self._end.__dict__.update(self.__dict__)
        self.ended.set()

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self.ended.set()


class Upstream:
    """`heard` is every request with its body, in the order they came; `connections` how many were ever opened. With a
    context that says what it shows it speaks TLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.heard: list[Message] = []
        self.connections = 0
        self.answers: dict[str, bytes] = {}
        self._talks: queue.Queue[Talk] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[End] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Upstream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def hear(self, seconds: float = SECONDS) -> Talk:
        """The next request that the test is to answer."""
        return self._talks.get(timeout=seconds)

    def last(self) -> Message:
        """The latest request that was answered here."""
        return self.heard[-1]

    @contextlib.contextmanager
    def hears_nothing(self) -> Iterator[None]:
        """Nothing of what happens in the block reaches this upstream."""
        before = len(self.heard)
        yield
        assert [message.line for message in self.heard[before:]] == []
        assert self._talks.empty()

    def close(self) -> None:
        """Stop listening and close every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                end = End(sock)
                self._ends.append(end)
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: End) -> None:
        end.socket.settimeout(None)
        with contextlib.suppress(Broken, OSError, ValueError):
            if self._tls is not None:
                end.socket = self._tls.wrap_socket(end.socket, server_side=True)
            while True:
                request = end.head()
                if "/talk" in request.target:
                    talk = Talk(end, request)
                    talk.socket.settimeout(SECONDS)
                    self.heard.append(request)
                    self._talks.put(talk)
                    talk.ended.wait()
                    end.socket.settimeout(None)
                    continue
                request = end.with_body(request)
                self.heard.append(request)
                answer = self.answers.get(request.target, OK)
                if request.line.startswith("HEAD "):
                    answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                end.say(answer)
