"""The section `[decide]`: its defaults, what each key may be, and that it shares a port with nobody."""

from pathlib import Path

import pytest

from tolsey.config import load, problems
from tolsey.config_decide import Decide, same_listener


def read(folder: Path, text: str) -> Decide | None:
    file = folder / "tolsey.toml"
    file.write_text(text)
    return load(file, {}).decide


def test_nobody_asks_without_the_section(tmp_path: Path) -> None:
    assert read(tmp_path, "") is None
    assert read(tmp_path, "[decide]") == Decide("127.0.0.1", 8404, False, 60.0)


def test_every_key(tmp_path: Path) -> None:
    found = read(tmp_path, '[decide]\nhost = "::1"\nport = 9\nsettle = "reported"\ntimeout = 3600\ngrpc_port = 10')
    assert found == Decide("::1", 9, True, 3600.0, 10)
    assert found.ports == (9, 10)


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("[decide]\nport = 0", 2, "decide.port", "must be from 1 to 65535"),
        ('[decide]\nsettle = "later"', 2, "decide.settle", 'must be "reserved" or "reported"'),
        ("[decide]\ntimeout = 0", 2, "decide.timeout", "must be above 0 and at most 3600 seconds"),
        ("[decide]\ntimeout = 3601", 2, "decide.timeout", "must be above 0 and at most 3600 seconds"),
        ("[decide]\nsettled = 1", 2, "decide.settled", 'did you mean "settle"'),
        ("decide = 1", 1, "decide", "must be a table"),
        ("[decide]\nport = 8402", 2, "decide.port", "[server] listens on port 8402"),
        ('[decide]\nport = 8403\nhost = "0.0.0.0"', 2, "decide.port", "[admin] listens on port 8403"),
        ("[decide]\ngrpc_port = 65536", 2, "decide.grpc_port", "must be from 1 to 65535"),
        ("[decide]\ngrpc_port = 8402", 2, "decide.grpc_port", "[server] listens on port 8402"),
        ("[decide]\ngrpc_port = 8404", 2, "decide.grpc_port", "[decide] listens on port 8404"),
        ("[server]\nport = 8404\n[decide]", 3, "decide", "[server] listens on port 8404"),
    ],
)
def test_what_it_may_not_be(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(text)
    (error,) = problems(file, {})
    assert (error.line, error.key) == (line, key)
    assert message in str(error)


def test_two_listeners_on_one_port() -> None:
    assert same_listener("127.0.0.1", 1, "localhost", 1)
    assert same_listener("0.0.0.0", 1, "10.0.0.1", 1)
    assert not same_listener("127.0.0.1", 1, "10.0.0.1", 1)
    assert not same_listener("127.0.0.1", 1, "127.0.0.1", 2)
