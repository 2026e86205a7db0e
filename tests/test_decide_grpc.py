"""Deciding for Envoy over gRPC, as dialogues: its checks, what it is told, and what its access log settles."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways import Gateway, child_of, problem, serving, until
from tests.ports import free_port
from tests.test_decide import CONFIG
from tests.upstreams import Upstream
from tolsey.cli.engine import DRAIN_SECONDS
from tolsey.gateway.deciding_grpc import FILTER, MAX_MESSAGE, reports_in
from tolsey.gateway.envoy_api import (
    CHECK,
    LOGS,
    CheckRequest,
    CheckResponse,
    StreamAccessLogsMessage,
    StreamAccessLogsResponse,
    Wire,
)
from tolsey.gateway.reports import Report

NOT_READ = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def raw(sent: Wire) -> bytes:
    """A message as it is sent; what is bytes is sent as it is."""
    return sent if isinstance(sent, bytes) else bytes(sent.SerializeToString())


class Envoy:
    """What Envoy says to a gateway that decides. Nothing may reach an upstream."""

    def __init__(self, gateway: Gateway, port: int, channel: grpc.Channel) -> None:
        self.gateway, self.port = gateway, port
        self.check = channel.unary_unary(
            f"/{CHECK}/Check",
            request_serializer=raw,
            response_deserializer=CheckResponse.FromString,
        )
        self.log = channel.stream_unary(
            f"/{LOGS}/StreamAccessLogs",
            request_serializer=raw,
            response_deserializer=StreamAccessLogsResponse.FromString,
        )

    def ask(
        self, method: str, path: str, *, token: str | None = None, client: str = "127.0.0.1", **more: object
    ) -> Wire:
        """One check, and its answer."""
        headers = more.pop("headers", None) or ([] if token is None else [("authorization", f"Bearer {token}")])
        assert isinstance(headers, list)
        pairs = [{"key": name, "value": value} for name, value in [(":method", method), (":path", path), *headers]]
        http = {"method": method, "path": path, "host": "agents", "scheme": "http", "headers": pairs, **more}
        source = {"address": {"socket_address": {"address": client}}}
        return self.check(CheckRequest(attributes={"source": source, "request": {"http": http}}), timeout=10)

    def logs(self, *entries: object) -> None:
        """A log that says this and ends."""
        message = StreamAccessLogsMessage(http_logs={"log_entry": list(entries)})
        self.log(iter([StreamAccessLogsMessage(), message]), timeout=10)

    def ends(self, answer: Wire, token: str) -> tuple[str, str | None]:
        """State and cost of a call's hold once it is settled."""
        found: dict[str, Any] = {}

        def settled() -> bool:
            found.update(json.loads(self.gateway.ask("GET", f"/.tolsey/holds/{hold_of(answer)}", token=token).body))
            return bool(found["state"] != "open")

        until(settled, "the hold is settled")
        return found["state"], found["cost"]


def told(options: Wire) -> dict[str, str]:
    """The headers that an answer has Envoy write."""
    return {option.header.key: option.header.value for option in options}


def hold_of(answer: Wire) -> str:
    """The hold, as Envoy keeps it for its log."""
    (field,) = answer.dynamic_metadata.fields
    assert field.key == "hold"
    return str(field.value.string_value)


def entry(hold: str | None, status: int | None = 200, **common: object) -> dict[str, Any]:
    """A line of Envoy's log about a call that reached its upstream."""
    metadata = [] if hold is None else [{"key": FILTER, "value": {"fields": [_field("hold", hold)]}}]
    common = {"metadata": {"filter_metadata": metadata}, "upstream_wire_bytes_sent": 90, "access_log_type": 6, **common}
    response = {} if status is None else {"response_code": {"value": status}}
    return {"common_properties": common, "request": {}, "response": response}


def _field(name: str, value: str) -> dict[str, object]:
    return {"key": name, "value": {"string_value": value}}


@contextlib.contextmanager
def beside(folder: Path, settle: str, workers: int = 1) -> Iterator[Envoy]:
    http, port = free_port(), free_port()
    with Upstream() as one, one.hears_nothing():
        config = CONFIG.replace("<settle>", f"grpc_port = {port}\n{settle}")
        with (
            serving(folder, config, decide=http, one=one.port, workers=workers) as gateway,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            yield Envoy(gateway, port, channel)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with beside(tmp_path_factory.mktemp("grpc"), "") as envoy:
        yield envoy


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with beside(tmp_path_factory.mktemp("grpc"), 'settle = "reported"\ntimeout = 1.0') as envoy:
        yield envoy


# --- the question


def test_what_is_granted_is_charged_and_envoy_told(at_once: Envoy) -> None:
    team = at_once.gateway.token()
    narrow = ("scope = /api/a?q=1", "method = POST", "peer = 192.0.2.7")
    token = child_of(team, "label = worker n", *narrow, "budget = 1 USD")

    answer = at_once.ask("POST", "/api/a?q=1", token=token, client="192.0.2.7")

    assert (answer.status.code, answer.HasField("denied_response")) == (0, False)
    hold = hold_of(answer)
    assert told(answer.ok_response.headers) == {"tolsey-hold": hold}
    assert told(answer.ok_response.response_headers_to_add) == {
        "tolsey-hold": hold,
        "tolsey-cost": "0.01 USD",
        "tolsey-remaining": "0.99 USD",
    }
    assert {option.append_action for option in answer.ok_response.headers} == {2}
    assert list(answer.ok_response.headers_to_remove) == ["authorization", "x-api-key"]
    assert at_once.ends(answer, team) == ("settle", "0.01")
    line = at_once.gateway.line_of(hold)
    assert (line["method"], line["path"], line["cost"]) == ("POST", "/api/a", "0.01 USD")


def test_every_refusal_is_the_one_of_the_data_port(at_once: Envoy) -> None:
    gateway = at_once.gateway
    poor, elsewhere, dead = (
        gateway.token(budget="0.005 USD"),
        gateway.token("scope = /other/*"),
        gateway.token("expires = 2020-01-01"),
    )
    quick = gateway.token("rate = 1/hour")
    assert at_once.ask("GET", "/api/a", token=quick).status.code == 0
    cases: list[tuple[str, str, str | None, int]] = [
        ("GET", "/api/a", None, 401),
        ("GET", "/api/a", "tolsey_x", 401),
        ("GET", "/api/a", dead, 401),
        ("GET", "/api/a", poor, 402),
        ("GET", "/api/a", elsewhere, 403),
        ("GET", "/other", poor, 404),
        ("PUT", "/api/a", poor, 405),
        ("GET", "/api/a", quick, 429),
        ("GET", "/api/../secret", poor, 400),
        ("GET", "/api//a", poor, 400),
    ]
    for method, target, token, status in cases:
        here = at_once.ask(method, target, token=token)
        there = gateway.ask(method, target, token=token)
        assert (here.status.code, here.denied_response.status.code) == (7, status)
        assert json.loads(here.denied_response.body) == problem(there)
        headers = told(here.denied_response.headers)
        for name in ("content-type", "www-authenticate", "retry-after", "allow", "cache-control"):
            assert [value for key, value in headers.items() if key == name] == there.all(name)


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (CheckRequest(), "request_invalid"),
        (CheckRequest(attributes={"request": {}}), "request_invalid"),
        (CheckRequest(attributes={"request": {"http": {"method": "GET"}}}), "request_invalid"),
        (CheckRequest(attributes={"request": {"http": {"path": "/api/a"}}}), "request_invalid"),
        (CheckRequest(attributes={"request": {"http": {"method": "GET", "path": "api"}}}), "request_invalid"),
        (CheckRequest(attributes={"request": {"http": {"method": "GET", "path": "/api/a#b"}}}), "path_invalid"),
        (CheckRequest(attributes={"request": {"http": {"method": "GET", "path": "/api/zażółć"}}}), "path_invalid"),
        (
            CheckRequest(attributes={"request": {"http": {"method": "GET", "path": "/.tolsey/balance"}}}),
            "route_missing",
        ),
    ],
)
def test_a_question_that_says_too_little_is_refused(at_once: Envoy, question: Wire, code: str) -> None:
    answer = at_once.check(question, timeout=10)
    assert answer.status.code == 7
    assert json.loads(answer.denied_response.body)["code"] == code


@pytest.mark.parametrize(
    ("asked", "codes"),
    [(b"\xff\xff", NOT_READ), (b"x" * (MAX_MESSAGE + 1), (grpc.StatusCode.RESOURCE_EXHAUSTED,))],
    ids=["garbage", "too large"],
)
def test_what_is_no_question_is_an_error_to_envoy(
    at_once: Envoy, asked: bytes, codes: tuple[grpc.StatusCode, ...]
) -> None:
    """And then it forwards nothing, and the next question is answered."""
    with pytest.raises(grpc.RpcError) as raised:
        at_once.check(asked, timeout=10)
    assert raised.value.code() in codes
    assert at_once.ask("GET", "/api/a", token=at_once.gateway.token()).status.code == 0


def test_a_credential_that_is_there_twice_decides_nothing(at_once: Envoy) -> None:
    token = at_once.gateway.token()
    once = ("authorization", f"Bearer {token}")
    for headers in ([once, once], [once, ("x-api-key", token)], [("authorization", f"{once[1]},{once[1]}")]):
        answer = at_once.ask("GET", "/api/a", headers=headers)
        assert answer.denied_response.status.code in (400, 401)


def test_headers_may_come_as_bytes(at_once: Envoy) -> None:
    token = at_once.gateway.token()
    raw = [{"key": "X-Api-Key", "raw_value": token.encode()}, {"key": ":path", "raw_value": b"/dear"}]
    assert at_once.ask("GET", "/api/a", header_map={"headers": raw}).status.code == 0


def test_an_llm_call_is_priced_by_a_body_that_comes_along_whole(at_once: Envoy) -> None:
    token = at_once.gateway.token()
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10})
    path = "/llm/v1/chat/completions"
    bearer = ("authorization", f"Bearer {token}")
    bare = at_once.ask("POST", path, headers=[bearer, ("content-length", "99")])
    part = at_once.ask("POST", path, headers=[bearer, ("x-envoy-auth-partial-body", "true")], body=body)
    assert (bare.denied_response.status.code, part.denied_response.status.code) == (400, 400)
    assert "raise max_request_bytes" in json.loads(part.denied_response.body)["detail"]
    for whole in ({"body": body}, {"raw_body": body.encode()}):
        answer = at_once.ask("POST", path, token=token, **whole)
        state, cost = at_once.ends(answer, token)
        assert (state, f"{cost} USD") == ("settle", told(answer.ok_response.response_headers_to_add)["tolsey-quote"])


def test_public_and_observed_calls_go_on_without_a_hold_of_the_clients(at_once: Envoy) -> None:
    forged = [("tolsey-hold", "h")]
    open_, seen = at_once.ask("GET", "/open/a", headers=forged), at_once.ask("GET", "/seen/a", headers=forged)
    for answer, removed in ((open_, ["tolsey-hold"]), (seen, ["authorization", "x-api-key", "tolsey-hold"])):
        assert answer.status.code == 0
        assert list(answer.ok_response.headers_to_remove) == removed
        assert not answer.ok_response.headers
        assert not answer.dynamic_metadata.fields


def test_no_log_is_taken_where_nothing_waits(at_once: Envoy) -> None:
    with pytest.raises(grpc.RpcError, match="settle is not") as raised:
        at_once.logs(entry("h"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


# --- the log


@pytest.mark.parametrize(
    ("path", "said", "end"),
    [
        ("/api/a", {}, ("settle", "0.01")),
        ("/api/a", {"status": 503, "upstream_wire_bytes_sent": 0}, ("void", "0")),
        (
            "/api/a",
            {"status": 503, "upstream_wire_bytes_sent": 0, "upstream_request_attempt_count": 2},
            ("settle", "0.01"),
        ),
        (
            "/api/a",
            {"status": 503, "upstream_wire_bytes_sent": 0, "time_to_first_upstream_tx_byte": {}},
            ("settle", "0.01"),
        ),
        ("/api/a", {"status": None}, ("settle", "0.01")),
        ("/fair/a", {"status": 503}, ("settle", "0")),
        ("/bytes/a", {"sent": 500_000, "received": 250_000}, ("settle", "0.76")),
        ("/bytes/a", {"sent": 900_000_000}, ("settle", "2.01")),
        ("/second/a", {"duration": {"seconds": 4, "nanos": 500_000_000}}, ("settle", "0.045")),
        ("/told/a", {"headers": [{"key": "x-cost", "value": "0.25"}]}, ("settle", "0.25")),
        ("/told/a", {}, ("settle", "0.5")),
    ],
)
def test_what_is_logged_is_what_is_charged(later: Envoy, path: str, said: dict[str, Any], end: tuple[str, str]) -> None:
    token = later.gateway.token()
    answer = later.ask("POST" if path == "/bytes/a" else "GET", path, token=token)
    sent, received, headers = (said.pop(name, None) for name in ("sent", "received", "headers"))
    line = entry(hold_of(answer), said.pop("status", 200), **said)
    line["request"]["request_body_bytes"] = sent
    line["response"] |= {"response_body_bytes": received, "response_headers": headers}
    later.logs(entry("another"), line, line)
    assert later.ends(answer, token) == end


def test_what_is_not_about_the_end_of_a_call_settles_nothing(later: Envoy) -> None:
    """Nor what names its hold in another way than Envoy does by itself, as a client could."""
    token = later.gateway.token()
    answer = later.ask("GET", "/second/a", token=token)
    hold = hold_of(answer)
    elsewhere = entry(None)
    elsewhere["common_properties"]["metadata"] = {
        "filter_metadata": [{"key": "another", "value": {"fields": [_field("hold", hold)]}}]
    }
    twice = entry(hold)
    twice["common_properties"]["metadata"]["filter_metadata"] *= 2
    later.logs(
        entry(None),
        elsewhere,
        twice,
        entry(hold, intermediate_log_entry=True),
        entry(hold, access_log_type=4),
        entry(hold, 1000),
        entry("h" * 129),
        {},
    )
    later.logs(entry(hold, duration={"seconds": 3}))
    assert later.ends(answer, token) == ("settle", "0.03")


def test_a_log_that_cannot_be_read_ends_and_another_is_taken(later: Envoy) -> None:
    for sent in (b"\xff\xff", b"x" * (MAX_MESSAGE + 1)):
        with pytest.raises(grpc.RpcError):
            later.log(iter([sent]), timeout=10)
    token = later.gateway.token()
    answer = later.ask("GET", "/api/a", token=token)
    later.logs(entry(hold_of(answer)))
    assert later.ends(answer, token) == ("settle", "0.01")


def test_without_a_log_what_is_held_is_charged_in_time(later: Envoy) -> None:
    token = later.gateway.token()
    answer = later.ask("GET", "/second/a", token=token)
    assert told(answer.ok_response.response_headers_to_add)["tolsey-quote"] == "0.1 USD"
    assert later.ends(answer, token) == ("settle", "0.1")


@given(st.binary(max_size=200))
def test_no_message_is_too_much(data: bytes) -> None:
    with contextlib.suppress(Exception):
        message = StreamAccessLogsMessage.FromString(data)
        assert isinstance(reports_in(message), list)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
)
def test_no_number_is_too_much(status: int, size: int, seconds: int, nanos: int) -> None:
    line = entry("h", status, duration={"seconds": seconds, "nanos": nanos})
    line["response"]["response_body_bytes"] = size
    for report in reports_in(StreamAccessLogsMessage(http_logs={"log_entry": [line]})):
        assert isinstance(report, Report)
        assert report.received is not None
        assert 0 <= report.received <= 2**53
        assert report.ns is None or report.ns >= 0


# --- several workers, and their end


@pytest.mark.slow
def test_a_line_finds_its_hold_whichever_worker_made_it(tmp_path: Path) -> None:
    with beside(tmp_path, 'settle = "reported"', workers=3) as several:
        token = several.gateway.token()
        for number in range(12):
            alone = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(f"127.0.0.1:{several.port}", alone) as channel:
                answer = Envoy(several.gateway, several.port, channel).ask("GET", "/api/a", token=token)
            several.logs(entry(hold_of(answer), upstream_wire_bytes_sent=number % 2))
        several.gateway.stands(token, spent="0.06", calls=6)


def test_a_log_that_never_ends_keeps_no_gateway_from_ending(tmp_path: Path) -> None:
    """It takes no longer to end than it would without, and leaves no hold: `serving` looks."""
    over = threading.Event()

    def endless(hold: str) -> Iterator[Wire]:
        yield StreamAccessLogsMessage(http_logs={"log_entry": [entry(hold)]})
        over.wait()

    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        with beside(tmp_path, 'settle = "reported"\ntimeout = 3600') as stopping:
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{stopping.port}"))
            token = stopping.gateway.token()
            first, second = (stopping.ask("GET", "/api/a", token=token) for _ in range(2))
            # One that nobody has is cancelled.
            log = Envoy(stopping.gateway, stopping.port, channel).log.future(endless(hold_of(first)))
            assert stopping.ends(first, token) == ("settle", "0.01")
            assert second.status.code == 0
            assert not log.done()
            began = time.monotonic()
        assert time.monotonic() - began < DRAIN_SECONDS / 2


# --- the extra


def test_what_is_missing_is_said_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tolsey import config_decide
    from tolsey.config import problems

    monkeypatch.setattr(config_decide, "find_spec", lambda _: None)
    file = tmp_path / "tolsey.toml"
    file.write_text("[decide]\ngrpc_port = 8405\n")
    (error,) = problems(file, {})
    assert (error.line, error.key) == (2, "decide.grpc_port")
    assert re.search(r"pip install 'tolsey\[grpc\]'", str(error))
