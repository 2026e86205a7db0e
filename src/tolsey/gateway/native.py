"""The compiled wire of the fast path (`native/`, in Rust), as Python calls it. Where it was not built there is none.

It carries bytes and decides nothing: what it does with a request it was told by Python, under the request's very bytes.
"""

import ctypes
import os
import socket
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

LIBRARY: Final = Path(__file__).with_name("_wire.so")

OFF: Final = "TOLSEY_NO_NATIVE"
"""With this in the environment the compiled wire is not used, as if it had not been built."""

HEAD_ONLY: Final = 1
KEEP_ALIVE: Final = 2
ASK_ON_FAILURE: Final = 4
ONCE: Final = 8
METERED: Final = 16
"""What may be said of a plan: there is no body in the answer; the connection is kept; Python is asked for the head of
an answer with a status of 500 or above; it is for this one request; Python reads the answer, which is kept for it.
"""

ASK: Final = 1
READY: Final = 2
DIAL: Final = 3
HEAD: Final = 4
DONE: Final = 5
FAILED: Final = 6
GONE: Final = 7
STRANGE: Final = 8
BODY: Final = 9
KEPT: Final = 10

BROKEN: Final[Mapping[int, str]] = {
    1: "the upstream broke off before it answered",
    2: "the upstream broke off in the middle of its answer",
    3: "the upstream's answer is not HTTP/1.1 as it should be",
    4: "the upstream's headers are too large",
    5: "the upstream's answer has a Transfer-Encoding other than chunked",
    6: "the upstream's answer has a header or a trailer without an end",
}
"""Why an answer was not taken (`Fault` in `native/src/answer.rs`)."""

_EVENT: Final = struct.Struct("=IIQQQ")
_MOST_EVENTS: Final = 256
_NOTHING: Final = ctypes.c_size_t(-1).value

Event = tuple[int, int, int, int, int]
"""Its kind, the number of the call's plan, the call, and two numbers more (see `native/src/wire.rs`)."""

_POINTER: Final = ctypes.c_void_p
_CALL: Final = ctypes.c_uint64
_TEXT: Final = ctypes.c_char_p
_SIZE: Final = ctypes.c_size_t
_NUMBER: Final = ctypes.c_uint32
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "free": (None, ()),
    "fd": (ctypes.c_int, ()),
    "listen": (ctypes.c_bool, (ctypes.c_int,)),
    "status_line": (None, (ctypes.c_uint16, _TEXT, _SIZE)),
    "date": (None, (_TEXT, _SIZE)),
    "destination": (_NUMBER, ()),
    "retire": (None, (_NUMBER,)),
    "turn": (None, ()),
    "more": (ctypes.c_bool, ()),
    "events": (_SIZE, (_TEXT, _SIZE)),
    "input": (_POINTER, (_CALL, _POINTER, _POINTER, _TEXT)),
    "remember": (None, (_CALL, _NUMBER, _NUMBER, _TEXT, _SIZE, _SIZE, _NUMBER, ctypes.c_uint64, ctypes.c_uint64)),
    "forget": (None, ()),
    "release": (ctypes.c_int, (_CALL,)),
    "go": (None, (_TEXT, _TEXT, _SIZE, _TEXT, _SIZE, _TEXT)),
    "connected": (None, (_CALL, _NUMBER, ctypes.c_int)),
    "answer_head": (_SIZE, (_CALL, _TEXT, _SIZE)),
    "body": (_SIZE, (_CALL, _TEXT, _SIZE)),
    "kept": (_SIZE, (_CALL, _TEXT, _SIZE, _POINTER)),
    "head": (None, (_CALL, _TEXT, _SIZE)),
    "answer": (None, (_CALL, _TEXT, _SIZE)),
    "closes": (ctypes.c_bool, (_CALL,)),
    "abort": (None, (_CALL,)),
    "cut": (None, (_CALL,)),
    "sweep": (None, ()),
    "drain": (None, ()),
    "open": (_SIZE, ()),
}


class Input(NamedTuple):
    """What was read of a request: all bytes, how many of them are its head (0 if that is not whole), and the client's
    address.
    """

    data: bytes
    head: int
    peer: str


class Wire:
    """One wire, for one event loop. `call` is a number from an event; one that is over is not an error."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises OSError where the system has none to give."""
        self._wire: int | None = None
        self._library = library
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"tolsey_wire_{name}", None)
            if function is None:
                raise OSError("it was built from other sources")
            function.restype = result
            function.argtypes = (_POINTER, *arguments)
        library.tolsey_wire_new.restype = _POINTER
        self._wire = library.tolsey_wire_new()
        if self._wire is None:
            raise OSError("the system gives no epoll descriptor")
        self._go = library.tolsey_wire_go
        self._room_for(64 * 1024)
        self._head = ctypes.c_size_t()
        self._head_at = ctypes.byref(self._head)
        self._events = ctypes.create_string_buffer(_EVENT.size * _MOST_EVENTS)
        self._view = memoryview(self._events).cast("B")

    @classmethod
    def load(cls) -> "Wire | None":
        """A wire, or None where it was not built, or is not wanted."""
        if os.environ.get(OFF) or not LIBRARY.exists():
            return None
        # With the interpreter's lock kept: no call takes long.
        return cls(ctypes.PyDLL(os.fspath(LIBRARY)))

    def __del__(self) -> None:
        if self._wire is not None:
            self._library.tolsey_wire_free(self._wire)

    def fileno(self) -> int:
        """What is readable when `turn` has something to do."""
        return int(self._library.tolsey_wire_fd(self._wire))

    def listen(self, listener: socket.socket) -> None:
        """Take connections from a listening socket, whose descriptor is the wire's from now on."""
        if not self._library.tolsey_wire_listen(self._wire, listener.detach()):
            raise OSError("a listening socket cannot be watched")

    def status_line(self, status: int, line: bytes) -> None:
        """Say how the first line of an answer with this status is written."""
        self._library.tolsey_wire_status_line(self._wire, status, line, len(line))

    def date(self, line: bytes) -> None:
        """Set the date header, with its end of line."""
        self._library.tolsey_wire_date(self._wire, line, len(line))

    def destination(self) -> int:
        """A new place to send requests to."""
        return int(self._library.tolsey_wire_destination(self._wire))

    def retire(self, destination: int) -> None:
        """Keep no connection to a place any more."""
        self._library.tolsey_wire_retire(self._wire, destination)

    def turn(self) -> None:
        """Look at all sockets once, and do what can be done."""
        self._library.tolsey_wire_turn(self._wire)

    @property
    def more(self) -> bool:
        """Whether there is something left to do that no socket will tell of."""
        return bool(self._library.tolsey_wire_more(self._wire))

    def events(self) -> Iterator[Event]:
        """The events that are there, at most so many at once; empty if there are none."""
        count: int = self._library.tolsey_wire_events(self._wire, self._events, _MOST_EVENTS)
        # A copy, since what is done about one event may bring others.
        return _EVENT.iter_unpack(bytes(self._view[: count * _EVENT.size]))

    def input(self, call: int) -> Input:
        """What was read of a request."""
        length, head = ctypes.c_size_t(), ctypes.c_size_t()
        peer = ctypes.create_string_buffer(16)
        data = self._library.tolsey_wire_input(self._wire, call, ctypes.byref(length), ctypes.byref(head), peer)
        if data is None:
            return Input(b"", 0, "")
        return Input(ctypes.string_at(data, length.value), head.value, _address(peer.raw))

    def body(self, call: int) -> bytes:
        """The body of a request that is whole."""
        return self._copied(self._library.tolsey_wire_body, call) or b""

    def remember(
        self,
        call: int,
        plan: int,
        *,
        destination: int,
        head: bytes,
        body: int,
        flags: int,
        timeout: float,
        most: float,
    ) -> None:
        """What is to be done with a request: `head` goes to `destination`, with `body` bytes of its body behind it.
        `timeout` (of silence) and `most` (in all) are seconds.
        """
        self._library.tolsey_wire_remember(
            self._wire, call, plan, destination, head, len(head), body, flags, round(timeout * 1e9), round(most * 1e9)
        )

    def forget(self) -> None:
        """Forget all plans."""
        self._library.tolsey_wire_forget(self._wire)

    def release(self, call: int) -> socket.socket | None:
        """The connection of a call, which is Python's from now on."""
        descriptor: int = self._library.tolsey_wire_release(self._wire, call)
        return None if descriptor < 0 else socket.socket(fileno=descriptor)

    def go(self, calls: Sequence[int], extras: Sequence[bytes]) -> bytes:
        """Send calls upstream; the client of each gets the header lines in `extras` with the answer. What comes back
        has a 0 for each call that is gone.
        """
        # All at once, since to call across costs as much as to send.
        went = ctypes.create_string_buffer(len(calls))
        lengths = array("I", [len(extra) for extra in extras]).tobytes()
        lines = b"".join(extras)
        self._go(self._wire, array("Q", calls).tobytes(), lengths, len(calls), lines, len(lines), went)
        return went.raw

    def connected(self, call: int, destination: int, connection: socket.socket) -> None:
        """A connection for a call that wants one."""
        self._library.tolsey_wire_connected(self._wire, call, destination, connection.detach())

    def answer_head(self, call: int) -> list[tuple[bytes, bytes]]:
        """The headers of an answer that Python is asked about."""
        return _headers(self._copied(self._library.tolsey_wire_answer_head, call) or b"")

    def kept(self, call: int) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """What was not taken yet of a metered answer, its headers the first time and a piece of its body; None where
        none was kept. It is there when the call is over too, once.
        """
        kept = self._copied(self._library.tolsey_wire_kept, call, self._head_at)
        if kept is None:
            return None
        head = self._head.value
        return _headers(kept[:head]), kept[head:]

    def _copied(self, function: Any, call: int, *more: object) -> bytes | None:  # noqa: ANN401 - as ctypes has it
        """What `function` copies of a call, None if there is nothing of it."""
        # By way of room that is there: ctypes takes five times as long to read at a pointer.
        length: int = function(self._wire, call, self._room, self._size, *more)
        if length == _NOTHING:
            return None
        if length > self._size:
            self._room_for(length)
            return self._copied(function, call, *more)
        return bytes(self._seen[:length])

    def _room_for(self, size: int) -> None:
        self._size = size
        self._room = ctypes.create_string_buffer(size)
        self._seen = memoryview(self._room).cast("B")

    def head(self, call: int, lines: bytes) -> None:
        """The header lines of that answer for the client."""
        self._library.tolsey_wire_head(self._wire, call, lines, len(lines))

    def answer(self, call: int, data: bytes) -> None:
        """Answer a call that is not under way with a whole answer."""
        self._library.tolsey_wire_answer(self._wire, call, data, len(data))

    def closes(self, call: int) -> bool:
        """Whether the connection ends with the answer to this call."""
        return bool(self._library.tolsey_wire_closes(self._wire, call))

    def abort(self, call: int) -> None:
        """Break a call's connection off."""
        self._library.tolsey_wire_abort(self._wire, call)

    def cut(self, call: int) -> None:
        """End a call that is under way upstream; it fails."""
        self._library.tolsey_wire_cut(self._wire, call)

    def sweep(self) -> None:
        """Look for what was silent for too long."""
        self._library.tolsey_wire_sweep(self._wire)

    def drain(self) -> None:
        """Take no more connections, and close each after its answer."""
        self._library.tolsey_wire_drain(self._wire)

    @property
    def open(self) -> int:
        """How many clients are connected."""
        return int(self._library.tolsey_wire_open(self._wire))


_MAPPED: Final = bytes(10) + b"\xff\xff"


def _headers(lines: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


def _address(peer: bytes) -> str:
    if peer.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, peer[12:])
    return socket.inet_ntop(socket.AF_INET6, peer)
