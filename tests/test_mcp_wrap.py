"""`tolsey mcp`: a server that is a program, behind a budget, in dialogues with its client line by line."""

import json
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import invoke, tolsey
from tests.gateways import until
from tests.mcp_client import Wrapped, words, wrapped

BUDGET = ("--budget", "5 USD")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "deep/mcp"


@pytest.fixture(scope="module")
def client(state: Path) -> Iterator[Wrapped]:
    with wrapped(
        state, *BUDGET, "--json", "--price", "echo=0.02 USD", "--price", "l*=3 USD",
        API_KEY="sesame-key", TOLSEY_TOKEN="tolsey_secret", OTHER="1",
    ) as running:  # fmt: skip
        yield running


def said(answer: dict[str, Any]) -> str:
    """The text of a tool's answer."""
    text = answer["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def account(state: Path, label: str = "mcp") -> dict[str, str]:
    status, out, _ = invoke("trail", "-c", str(state / "tolsey.toml"), "--json")
    assert status == 0
    (found,) = [account for account in json.loads(out)["accounts"] if account["label"] == label]
    return dict(found)


def spent(state: Path) -> str:
    """What is spent, once nothing is held."""
    until(lambda: account(state)["held"] == "0", "nothing is held")
    return account(state)["spent"]


def spends(state: Path, nano: float, client: Wrapped, message: dict[str, Any]) -> dict[str, Any]:
    """What comes of a message that costs so much."""
    before = float(spent(state))
    client.say(message)
    found = client.hear()
    until(lambda: round(float(spent(state)) - before, 9) == nano, f"{nano} are spent")
    return found


def test_the_session_is_the_clients_own_and_passes_as_it_is(client: Wrapped, state: Path) -> None:
    answer = client.ask("one", "initialize", protocolVersion="2025-11-25", capabilities={"sampling": {}})
    assert answer["id"] == "one"
    assert answer["result"]["capabilities"] == {"tools": {"listChanged": True}, "logging": {}}
    client.say({"method": "notifications/initialized"})
    client.say({"method": "notifications/roots/list_changed"})
    assert client.hear()["method"] == "roots/list"
    names = [tool["name"] for tool in client.ask(2, "tools/list")["result"]["tools"]]
    assert names[:3] == ["echo", "lie", "twice"]
    for path in (state, state / "data", state / "tokens"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = [*(state / "tokens").iterdir(), state / "data/keys", state / "lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_calls_are_priced_by_the_first_that_fits(client: Wrapped, state: Path) -> None:
    def call(tool: str) -> dict[str, Any]:
        return {"id": tool, "method": "tools/call", "params": {"name": tool, "arguments": {"text": "a"}}}

    assert said(spends(state, 0.02, client, call("echo"))) == "a"
    assert said(spends(state, 0.01, client, call("junk"))) == "ok"


def test_what_a_server_says_unasked_and_asks_reaches_the_client(client: Wrapped) -> None:
    assert client.call(3, "note")["params"]["data"] == "noted"
    assert client.hear()["id"] == 3
    asks = client.call(4, "ask")
    assert (asks["id"], asks["method"]) == ("q1", "sampling/createMessage")
    client.say({"id": "q1", "result": {"model": "m-1"}})
    assert said(client.hear()) == "m-1"


def test_progress_comes_under_the_clients_own_token(client: Wrapped) -> None:
    first = client.ask(5, "tools/call", name="slowly", arguments={}, _meta={"progressToken": "mine"})
    heard = [first, client.hear(), client.hear()]
    assert [(m["params"]["progressToken"], m["params"]["progress"]) for m in heard] == [("mine", n) for n in range(3)]
    assert client.hear()["id"] == 5


def test_a_server_that_lies_or_answers_twice_answers_once(client: Wrapped, state: Path) -> None:
    message = {"id": 6, "method": "tools/call", "params": {"name": "lie"}}
    assert said(spends(state, 3, client, message)) == "the truth"
    assert said(client.call(7, "twice")) == "first"
    assert said(client.call(7, "echo", text="next")) == "next"


def test_a_call_that_is_cancelled_is_charged_and_the_server_told(client: Wrapped, state: Path) -> None:
    before = float(spent(state))
    client.say({"id": 8, "method": "tools/call", "params": {"name": "hang"}})
    until(lambda: account(state)["held"] == "0.01", "the call is under way")
    client.say({"method": "notifications/cancelled", "params": {"requestId": 8}})
    until(lambda: "heard notifications/cancelled True" in client.complaints, "the server hears of it")
    assert said(client.call(9, "echo", text="after")) == "after"
    until(lambda: round(float(spent(state)) - before, 9) == 0.03, "both are charged")


BAD: dict[str, tuple[bytes, object, int]] = {
    "not JSON": (b"{", None, -32700),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', None, -32600),
    "an id twice in it": (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', None, -32700),
    "an id that is null": (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600),
    "no name": (b'{"jsonrpc":"2.0","id":11,"method":"tools/call","params":{}}', 11, -32602),
    "an unknown method": (b'{"jsonrpc":"2.0","id":11,"method":"tools/run"}', 11, -32601),
    "larger than a message may be": (b" " * (16 * 1024 * 1024 + 1), None, -32600),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_is_answered_and_the_next_is_taken(client: Wrapped, what: str) -> None:
    line, identifier, code = BAD[what]
    client.say(line)
    answer = client.hear()
    assert (answer["id"], answer["error"]["code"]) == (identifier, code)
    assert client.ask(12, "ping") == {"jsonrpc": "2.0", "id": 12, "result": {}}


def test_an_id_of_a_request_under_way_is_refused(client: Wrapped) -> None:
    client.say({"id": 13, "method": "tools/call", "params": {"name": "ask"}})
    assert client.hear()["id"] == "q1"
    twice = client.ask(13, "ping")
    assert (twice["id"], twice["error"]["code"]) == (None, -32600)
    client.say({"id": "q1", "result": {"model": "m-2"}})
    assert (said(answer := client.hear()), answer["id"]) == ("m-2", 13)


def test_ten_megabytes_of_arguments_pass(client: Wrapped) -> None:
    assert said(client.call(14, "size", text="x" * 10_000_000)) == "10000000"


def test_the_server_gets_the_clients_environment_without_what_is_ours(client: Wrapped) -> None:
    names = said(client.call(15, "names")).split()
    assert {"API_KEY", "OTHER", "PATH"} <= set(names)
    assert not [name for name in names if name.startswith("TOLSEY")]


def test_no_secret_is_in_what_the_server_complains_of(client: Wrapped) -> None:
    assert said(client.call(16, "tell")) == "told"
    until(lambda: "the key is ***, the other ***" in client.complaints, "it is said on standard error")
    assert "sesame" not in client.complaints
    for line in client.complaints.splitlines():
        assert isinstance(json.loads(line), dict)


def test_the_budget_is_kept_from_one_start_to_the_next_and_then_refuses(tmp_path: Path) -> None:
    for first in (True, False):
        with wrapped(tmp_path, *BUDGET, "--price", "*=3 USD") as client:
            answer = client.call(1, "echo", text="a")
            assert client.end()[0] == 0
        if first:
            assert said(answer) == "a"
        else:
            error = answer["error"]
            assert (error["code"], error["data"]["code"], error["data"]["limit"]) == (-32010, "budget_exhausted", "5")
            assert error["data"]["remaining"] == "2"
    assert spent(tmp_path) == "3"
    status, out, err = tolsey(*words(tmp_path, "--budget", "6 USD", "--json"))
    assert (status, out) == (2, "")
    command = re.search(r"tolsey (grant -c \S+ [0-9a-f]{32}) AMOUNT --reason …", json.loads(err)["detail"])
    assert command is not None
    assert invoke(*command[1].split(), "1 USD", "--reason", "more")[0] == 0
    with wrapped(tmp_path, *BUDGET, "--price", "*=3 USD") as client:
        assert said(client.call(1, "echo", text="a")) == "a"


def test_tools_that_are_not_named_are_neither_listed_nor_called(tmp_path: Path) -> None:
    with wrapped(tmp_path, "--budget", "9 credit", "--tool", "e*", "--tool", "note") as client:
        names = [tool["name"] for tool in client.ask(1, "tools/list")["result"]["tools"]]
        assert names == ["echo", "note"]
        assert client.call(2, "size")["error"]["data"]["code"] == "caveat_refused"
        assert said(client.call(3, "echo", text="a")) == "a"
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(20) == 0
    assert spent(tmp_path) == "1"


def test_a_server_that_ends_ends_it_too(tmp_path: Path) -> None:
    with wrapped(tmp_path, *BUDGET) as client:
        error = client.call(1, "die")["error"]
        assert error["data"]["code"] == "upstream_failed"
        assert client.process.wait(20) == 1
        until(lambda: "the server ended with status 3" in client.complaints, "it says why")
    assert spent(tmp_path) == "0.01"


@pytest.mark.slow
def test_an_answer_beyond_all_measure_ends_the_server(tmp_path: Path) -> None:
    with wrapped(tmp_path, *BUDGET) as client:
        assert client.call(1, "huge")["error"]["data"]["code"] == "upstream_failed"
        assert client.process.wait(20) == 1


MISTAKES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no budget": ((), 2, "--budget"),
    "a budget that is none": (("--budget", "much"), 1, "much"),
    "a price without a tool": ((*BUDGET, "--price", "1 USD"), 2, "is no price"),
    "a price that is none": ((*BUDGET, "--price", "a=much"), 1, "much"),
    "a price of another unit": ((*BUDGET, "--price", "a=1 sat"), 2, "is in sat, and the budget in USD"),
    "a name that is none": ((*BUDGET, "--price", "a b=1 USD"), 2, "not a tool's name"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_said_before_anything_is_made(tmp_path: Path, what: str) -> None:
    options, wanted, detail = MISTAKES[what]
    status, out, err = invoke(*words(tmp_path / "s", *options))
    assert (status, out) == (wanted, "")
    assert detail in err
    assert not (tmp_path / "s").exists()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    status, out, err = tolsey(*words(tmp_path, *BUDGET, program=("no-such-program",)))
    assert (status, out) == (1, "")
    assert "no-such-program cannot be run: No such file or directory" in err
