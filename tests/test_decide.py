"""Deciding for another gateway, as dialogues: what a proxy asks, what it is told, and how the hold is settled."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ends import Client, Message
from tests.gateways import Gateway, child_of, problem, serving, until
from tests.ports import free_port
from tests.upstreams import Upstream
from tolsey.gateway.reports import Report, read_report, reports_in

CONFIG = """
[server]
workers = <workers>
trusted_proxies = ["127.0.0.1"]
[decide]
port = <decide>
<settle>
[[upstream]]
name = "one"
url = "http://127.0.0.1:<one>"
[[route]]
path = "/api/*"
methods = ["GET", "POST"]
upstream = "one"
price = "0.01 USD"
[[route]]
path = "/fair/*"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
charge = "success"
[[route]]
path = "/bytes/*"
methods = ["POST"]
upstream = "one"
price = "0.01 USD"
price_per_request_mb = "1 USD"
price_per_response_mb = "1 USD"
[[route]]
path = "/second/*"
methods = ["GET"]
upstream = "one"
price = "0 USD"
price_per_second = "0.01 USD"
[[route]]
path = "/told/*"
methods = ["GET"]
upstream = "one"
reported = { header = "x-cost", each = "1 USD" }
at_most = "0.5 USD"
[[route]]
path = "/llm/v1/chat/completions"
methods = ["POST"]
upstream = "one"
llm = "openai"
[[route]]
path = "/open/*"
methods = ["GET"]
upstream = "one"
mode = "public"
[[route]]
path = "/seen/*"
methods = ["GET"]
upstream = "one"
mode = "observe"
price = "0.01 USD"
"""
REPORTED = 'settle = "reported"\ntimeout = 1.0'


class Beside:
    """A gateway that decides, and what a proxy beside it does. Nothing may reach an upstream."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway, self.port = gateway, port

    def say(self, method: str, target: str, *headers: str, token: str | None = None, body: bytes = b"") -> Message:
        """One request to the decide port."""
        with Client(self.port) as client:
            client.ask(method, target, *headers, "Connection: close", token=token, body=body)
            return client.answer(to_head=method == "HEAD")

    def ask(self, method: str, target: str, *headers: str, token: str | None = None) -> Message:
        """What nginx asks about a call."""
        where = (f"X-Original-Method: {method}", f"X-Original-URI: {target}")
        return self.say("GET", "/decide/original", *where, *headers, token=token)

    def report(self, **document: object) -> Message:
        """A report in a request of its own."""
        return self.say("POST", "/settle", body=json.dumps(document).encode())

    def log(self, line: bytes) -> None:
        """A line of an access log."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(line, ("127.0.0.1", self.port))

    def hold(self, answer: Message, token: str) -> tuple[str, str | None]:
        """State and cost of a hold."""
        found = json.loads(self.gateway.ask("GET", f"/.tolsey/holds/{answer['tolsey-hold']}", token=token).body)
        return found["state"], found["cost"]

    def ends(self, answer: Message, token: str) -> tuple[str, str | None]:
        """State and cost of a hold once it is settled."""
        until(lambda: self.hold(answer, token)[0] != "open", "the hold is settled")
        return self.hold(answer, token)


def beside(folder: pytest.TempPathFactory, settle: str, workers: int = 1) -> Iterator[Beside]:
    port = free_port()
    with Upstream() as one, one.hears_nothing():
        config = CONFIG.replace("<settle>", settle)
        with serving(folder.mktemp("decide"), config, decide=port, one=one.port, workers=workers) as gateway:
            yield Beside(gateway, port)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    yield from beside(tmp_path_factory, "")


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    yield from beside(tmp_path_factory, REPORTED)


# --- the question


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/decide/original", ["X-Original-Method: POST", "X-Original-URI: /api/a?q=1"]),
        ("GET", "/decide/forwarded", ["X-Forwarded-Method: POST", "X-Forwarded-Uri: /api/a?q=1"]),
        ("POST", "/decide/path/api/a?q=1", []),
    ],
)
def test_what_is_granted_is_charged_and_the_proxy_told(
    at_once: Beside, method: str, target: str, headers: list[str]
) -> None:
    team = at_once.gateway.token()
    narrow = ("scope = /api/a?q=1", "method = POST", "peer = 192.0.2.7")
    token = child_of(team, "label = worker n", *narrow, "budget = 1 USD")

    answer = at_once.say(method, target, *headers, "X-Forwarded-For: 192.0.2.7", token=token)

    assert (answer.status, answer.body, answer["content-length"]) == (200, b"", "0")
    assert (answer["tolsey-cost"], answer["tolsey-remaining"]) == ("0.01 USD", "0.99 USD")
    assert answer["x-envoy-auth-headers-to-remove"] == "authorization, x-api-key"
    assert at_once.ends(answer, team) == ("settle", "0.01")
    line = at_once.gateway.line_of(answer["tolsey-hold"])
    assert (line["method"], line["path"], line["cost"]) == ("POST", "/api/a", "0.01 USD")


@pytest.mark.parametrize(
    ("target", "code", "status"),
    [
        ("/other", "route_missing", 404),
        ("/api/../secret", "path_invalid", 400),
        ("/api//a", "path_invalid", 400),
        ("/api/a#b", "path_invalid", 400),
        ("/api/%2e%2e/a", "path_invalid", 400),
        ("http://elsewhere/api/a", "path_invalid", 400),
        ("/.tolsey/balance", "route_missing", 404),
        ("/.well-known/l402.json", "route_missing", 404),
        ("", "path_invalid", 400),
    ],
)
def test_what_is_no_call_of_ours_is_refused(at_once: Beside, target: str, code: str, status: int) -> None:
    answer = at_once.ask("GET", target, token=at_once.gateway.token())
    assert (problem(answer)["code"], answer.status) == (code, status)


def test_every_refusal_is_the_one_of_the_data_port(at_once: Beside) -> None:
    gateway = at_once.gateway
    poor = gateway.token(budget="0.005 USD")
    elsewhere = gateway.token("scope = /other/*")
    dead = gateway.token("expires = 2020-01-01")
    cases = [(None, 401), ("tolsey_x", 401), (dead, 401), (poor, 402), (elsewhere, 403)]
    for token, status in cases:
        here, there = at_once.ask("GET", "/api/a", token=token), gateway.ask("GET", "/api/a", token=token)
        assert (here.status, problem(here)) == (status, problem(there))
        assert here.all("www-authenticate") == there.all("www-authenticate")
        assert json.loads(here["tolsey-problem"]) == problem(here)
    assert at_once.ask("PUT", "/api/a", token=poor).status == 405


def test_a_document_fits_a_header_whatever_a_label_says(at_once: Beside) -> None:
    token = at_once.gateway.mint("label = zażółć n", "budget = 0.005 USD")
    answer = at_once.ask("GET", "/api/a", token=token)
    assert json.loads(answer["tolsey-problem"]) == problem(answer)
    assert problem(answer)["link"]["label"] == "zażółć"
    assert "tolsey-problem" not in at_once.say("GET", "/decide/path/api/a", token=token)


def test_where_a_call_stands_is_not_the_clients_to_say(at_once: Beside) -> None:
    """A header that is missing, or there twice since the proxy added its own to the client's, decides nothing; and
    those of one form are nothing to another.
    """
    token = at_once.gateway.token("scope = /api/cheap")
    forged = ["X-Original-Method: GET", "X-Original-URI: /api/cheap"]
    told = ["X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/dear"]
    cases: list[tuple[str, list[str], int]] = [
        ("/decide/original", forged, 200),
        ("/decide/original", [], 400),
        ("/decide/original", forged[:1], 400),
        ("/decide/original", [*forged, forged[1]], 400),
        ("/decide/original", told, 400),
        ("/decide/forwarded", [*forged, *told], 403),
        ("/decide/path/api/dear", forged, 403),
        ("/decide/path", forged, 404),
        ("/decide/pathapi/cheap", forged, 404),
        ("/decide", forged, 404),
        ("/api/cheap", forged, 404),
    ]
    assert [(t, at_once.say("GET", t, *h, token=token).status) for t, h, _ in cases] == [(t, s) for t, _, s in cases]


def test_a_question_about_head_has_an_answer_with_its_frame(at_once: Beside) -> None:
    refused = at_once.ask("HEAD", "/api/a")
    assert (refused.status, refused.body, refused["content-length"]) == (401, b"", "0")
    assert at_once.say("HEAD", "/decide/path/api/a", token=at_once.gateway.token()).status == 200


def test_questions_follow_one_another_on_a_connection(at_once: Beside) -> None:
    token = at_once.gateway.token()
    with Client(at_once.port) as client:
        for _ in range(3):
            client.ask("GET", "/decide/path/api/a", token=token)
            assert client.answer().status == 200
    at_once.gateway.stands(token, spent="0.03", calls=3)


def test_no_key_answers_a_second_call(at_once: Beside) -> None:
    """What came of the first is not known here, so each is charged; the key is for the upstream."""
    token = at_once.gateway.token()
    asks = [at_once.ask("POST", "/api/a", "Idempotency-Key: k", token=token).status for _ in range(2)]
    assert asks == [200, 200]
    at_once.gateway.stands(token, spent="0.02", calls=2)


def test_public_and_observed_calls_go_on(at_once: Beside) -> None:
    open_, seen = at_once.ask("GET", "/open/a"), at_once.ask("GET", "/seen/a")
    assert [(a.status, "tolsey-hold" in a) for a in (open_, seen)] == [(200, False)] * 2
    assert open_["x-envoy-auth-headers-to-remove"] == "tolsey-hold"
    assert seen["x-envoy-auth-headers-to-remove"] == "authorization, x-api-key, tolsey-hold"


def test_an_llm_call_is_priced_by_a_body_that_comes_along(at_once: Beside) -> None:
    token = at_once.gateway.token()
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10})
    bare = at_once.say("POST", "/decide/path/llm/v1/chat/completions", token=token)
    whole = at_once.say("POST", "/decide/path/llm/v1/chat/completions", token=token, body=body.encode())
    assert (bare.status, whole.status) == (400, 200)
    state, cost = at_once.ends(whole, token)
    assert (state, f"{cost} USD") == ("settle", whole["tolsey-quote"])


def test_nothing_is_reported_where_nothing_waits(at_once: Beside) -> None:
    assert at_once.report(hold="h").status == 404
    assert at_once.say("GET", "/settle").status == 405


# --- the settlement


def test_a_hold_waits_for_its_report(later: Beside) -> None:
    token = later.gateway.token()
    answer = later.ask("GET", "/api/a", token=token)
    assert (answer["tolsey-quote"], "tolsey-cost" in answer) == ("0.01 USD", False)
    assert later.hold(answer, token) == ("open", None)
    assert later.report(hold=answer["tolsey-hold"], status=200).status == 202
    assert later.ends(answer, token) == ("settle", "0.01")
    assert later.gateway.line_of(answer["tolsey-hold"])["status"] == 200
    assert later.report(hold=answer["tolsey-hold"], status=500).status == 202


@pytest.mark.parametrize(
    ("target", "report", "end"),
    [
        ("/api/a", {"status": 500}, ("settle", "0.01")),
        ("/api/a", {"status": 502, "served": False}, ("void", "0")),
        ("/api/a", {"status": 0}, ("settle", "0.01")),
        ("/fair/a", {"status": 503}, ("settle", "0")),
        ("/fair/a", {"status": 499}, ("settle", "0.01")),
        ("/bytes/a", {"status": 200, "sent": 500_000, "received": 250_000}, ("settle", "0.76")),
        ("/bytes/a", {"status": 200, "sent": "", "received": 1}, ("settle", "2.01")),
        ("/bytes/a", {"status": 200, "sent": 1}, ("settle", "2.01")),
        ("/bytes/a", {"status": 200, "sent": 3_000_000, "received": 0}, ("settle", "3.01")),
        ("/bytes/a", {"status": 200, "sent": 900_000_000, "received": 0}, ("settle", "2.01")),
        ("/second/a", {"status": 200, "seconds": 4.5}, ("settle", "0.045")),
        ("/second/a", {"status": 200, "seconds": "45"}, ("settle", "0.45")),
        ("/told/a", {"status": 200, "headers": {"X-Cost": "0.25"}}, ("settle", "0.25")),
        ("/told/a", {"status": 200, "headers": {"X-Cost": "-1"}}, ("settle", "0.5")),
        ("/told/a", {"status": 200}, ("settle", "0.5")),
    ],
)
def test_what_is_reported_is_what_is_charged(
    later: Beside, target: str, report: dict[str, object], end: tuple[str, str]
) -> None:
    """As far as the price asks for it, and there is money; what it asks for and is not said costs what was held."""
    token = later.gateway.token()
    answer = later.ask("POST" if target == "/bytes/a" else "GET", target, token=token)
    assert later.report(hold=answer["tolsey-hold"], **report).status == 202
    assert later.ends(answer, token) == end


@pytest.mark.parametrize("before", [b"<190>Nov 26 16:48:04 nginx: ", b"", b"<30>1 2026-11-26T16:48:04Z h p - - - "])
def test_a_line_of_a_log_is_a_report(later: Beside, before: bytes) -> None:
    token = later.gateway.token()
    answer = later.ask("GET", "/second/a", token=token)
    line = {"hold": answer["tolsey-hold"], "status": "200", "seconds": "1.500", "size": 4, "uri": "/second/a"}
    later.log(b"nothing")
    later.log(before + b'{"hold":"","status":401}')
    later.log(before + json.dumps(line).encode() + b"\n")
    assert later.ends(answer, token) == ("settle", "0.015")


def test_without_a_report_all_that_is_held_is_charged_in_time(later: Beside) -> None:
    token = later.gateway.token()
    answers = [later.ask("GET", f"/{kind}/a", token=token) for kind in ("api", "fair", "second")]
    began = time.monotonic()
    assert [later.ends(answer, token) for answer in answers] == [("settle", c) for c in ("0.01", "0.01", "0.1")]
    assert time.monotonic() - began < 5
    later.gateway.stands(token, spent="0.12", calls=3)
    line = later.gateway.line_of(answers[0]["tolsey-hold"])
    assert (line["status"], line["note"]) == (None, "nobody reported what became of it")


def test_holds_beyond_the_money_are_refused_while_others_wait(later: Beside) -> None:
    token = later.gateway.token(budget="0.02 USD")
    first, second, third = (later.ask("GET", "/api/a", token=token) for _ in range(3))
    assert [answer.status for answer in (first, second, third)] == [200, 200, 402]
    later.report(hold=first["tolsey-hold"], status=502, served=False)
    later.ends(first, token)
    assert later.ask("GET", "/api/a", token=token).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"hold": ""}',
        b'{"hold": "h", "state": 1}',
        b'{"hold": "h", "status": "two"}',
        b'{"hold": "h", "sent": 1e17}',
        b'{"hold": "h", "sent": "nan"}',
        b'{"hold": "h", "seconds": "inf"}',
        b'{"hold": "h", "served": "no"}',
        b'{"hold": "h\xff"}',
        b'{"hold": "' + b"h" * 129 + b'"}',
    ],
)
def test_what_is_no_report_is_refused(later: Beside, body: bytes) -> None:
    answer = later.say("POST", "/settle", body=body)
    assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")


def test_a_report_has_a_largest_size(later: Beside) -> None:
    document = json.dumps({"hold": "h", "headers": {"a": ""}}).encode()
    most = document.replace(b'""', b'"' + b"x" * (64 * 1024 - len(document)) + b'"')
    assert later.say("POST", "/settle", body=most).status == 202
    assert later.say("POST", "/settle", body=most + b" ").status == 413


@given(st.binary(max_size=200))
def test_no_datagram_is_too_much(data: bytes) -> None:
    assert isinstance(reports_in(data), list)
    assert reports_in(data + b'\nx {"hold":"h","sent":"-","seconds":1}') in (
        [Report("h", ns=1_000_000_000)],
        [*reports_in(data), Report("h", ns=1_000_000_000)],
    )


@given(st.binary(max_size=100) | st.builds(lambda text: json.dumps({"hold": "h", "status": text}).encode(), st.text()))
def test_a_posted_report_is_read_or_said_to_be_wrong(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert read_report(data).hold


# --- several workers, and their end


def test_a_report_finds_its_hold_whichever_worker_made_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    for several in beside(tmp_path_factory, 'settle = "reported"', workers=3):
        token = several.gateway.token()
        answers = [several.ask("GET", "/api/a", token=token) for _ in range(20)]
        for number, answer in enumerate(answers):
            document = {"hold": answer["tolsey-hold"], "status": 200, "served": number % 2 == 0}
            if number % 4 < 2:
                assert several.report(**document).status == 202
            else:
                several.log(json.dumps(document).encode())
        several.gateway.stands(token, spent="0.1", calls=10)


def test_what_waits_at_the_end_is_settled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Else the holds would be found open when the gateway has stopped: `serving` looks."""
    for stopping in beside(tmp_path_factory, 'settle = "reported"\ntimeout = 3600'):
        token = stopping.gateway.token()
        assert stopping.ask("GET", "/api/a", token=token).status == 200
        assert [account["held"] for account in stopping.gateway.balance(token)] == ["0.01"]
