"""Checkpoints go outside as they are made, in order, again until they are taken; and a gateway that does it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tolsey.config import load, problems
from tolsey.store import outside
from tolsey.store.outside import FilePlace, NotSent, Outside, Stdout, Webhook


class _Receiver(BaseHTTPRequestHandler):
    answers: ClassVar[list[int]] = []
    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.got.append((self.path, body))
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Say nothing."""


@contextmanager
def receiver(*answers: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    _Receiver.answers[:], _Receiver.got[:] = answers, []
    server = HTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret", _Receiver.got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_in_order_and_again_until_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "AGAIN_SECONDS", (0.01, 0.02))
    told: list[str] = []
    with receiver(500, 500, 307, 200) as (url, got):
        places = Outside([Webhook(url)], told.append)
        for document in (b"1", b"2", b"3"):
            places.send(document)
        await places.close(10)
        assert got == [("/secret", b"1"), ("/secret", b"2"), ("/secret", b"3")]
    assert told == ["the webhook: answered 500", "the webhook: answered 307"]


async def test_what_is_never_taken_is_given_up_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outside, "AGAIN_SECONDS", (0.01, 0.02))
    told: list[str] = []
    file = tmp_path / "kept.jsonl"
    places = Outside([Webhook("http://127.0.0.1:1/secret"), FilePlace(file), FilePlace(tmp_path)], told.append)
    places.send(b"{}")
    await places.close(0.3)
    assert file.read_bytes() == b"{}\n", "one that fails keeps no other"
    assert sorted(told) == [
        f"{tmp_path}: Is a directory",
        "the webhook: ConnectionRefusedError: [Errno 111] Connection refused",
    ]


class Slow:
    """A place that takes the first only when it is told to."""

    name = "slow"

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()
        self.got: list[bytes] = []

    def put(self, document: bytes) -> None:
        self.begun.set()
        assert self.may.wait(10)
        self.got.append(document)


async def test_too_many_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "MOST_WAITING", 2)
    slow = Slow()
    places = Outside([slow], lambda problem: None)
    places.send(b"1")
    assert await asyncio.to_thread(slow.begun.wait, 10)
    for document in (b"2", b"3", b"4"):
        places.send(document)
    slow.may.set()
    await places.close(10)
    assert slow.got == [b"1", b"3", b"4"]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    place = FilePlace(file)
    place.put(b"1")
    place.put(b"2")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"1\n2\n", 0o600)
    with pytest.raises(NotSent, match="No such file"):
        FilePlace(tmp_path / "none" / "x").put(b"1")


def test_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    Stdout().put(b"1")
    assert capfdbinary.readouterr().out == b"1\n"


WRONG = [
    ("entries = 0", "seal.entries", "must be from 1 to 1000000"),
    ("seconds = 86401", "seal.seconds", "must be from 1 to 86400"),
    ("seconds = 1.5", "seal.seconds", "must be an integer"),
    ('webhook = "ftp://a.example"', "seal.webhook", 'must be "http://…" or "https://…"'),
    ('webhook = "https://${NONE}"', "seal.webhook", "the environment variable NONE is not set"),
    ("webhook = 1", "seal.webhook", "must be a string"),
    ("stdout = 1", "seal.stdout", "must be true or false"),
    ('file = ""', "seal.file", "is not the path of a file"),
    ("every = 1", "seal.every", "unknown key"),
]


@pytest.mark.parametrize(("line", "key", "text"), WRONG, ids=[row[0] for row in WRONG])
def test_what_is_wrong_in_the_config(tmp_path: Path, line: str, key: str, text: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(f"[seal]\n{line}\n")
    (problem,) = problems(file, {})
    assert (problem.line, problem.key) == (2, key)
    assert text in problem.reason


def test_the_config(tmp_path: Path) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text('[seal]\nentries = 5\nseconds = 6\nfile = "k"\nwebhook = "https://a.example/${T}"\nstdout = true\n')
    seal = load(file, {"T": "hunter2"}).seal
    assert (seal.entries, seal.seconds, seal.file, seal.stdout) == (5, 6, tmp_path / "k", True)
    assert seal.webhook is not None
    assert seal.webhook.reveal() == "https://a.example/hunter2"
    assert "hunter2" not in repr(seal)
    assert load(file, {}, sends=False).seal.webhook is None
    file.write_text("")
    assert (load(file, {}).seal.entries, load(file, {}).seal.seconds, load(file, {}).seal.file) == (1000, 60, None)
