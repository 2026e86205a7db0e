"""W3C Trace Context: what is taken from a client, what goes upstream, and what the log says of it."""

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways import Gateway
from tests.upstreams import Upstream
from tolsey.gateway.trace import MAX_MEMBERS, MAX_STATE, RANDOM, SAMPLED, Trace
from tolsey.gateway.trace import read_trace as read_headers

CONFIG = """
[server]
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "keyed"
url = "http://127.0.0.1:<port>"
headers = { Traceparent = "00-00000000000000000000000000000001-0000000000000001-00" }
[[route]]
path = "/priced/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/open/*"
methods = ["*"]
upstream = "plain"
mode = "public"
[[route]]
path = "/keyed/*"
methods = ["*"]
upstream = "keyed"
mode = "public"
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def read_trace(parents: Iterable[bytes], states: Iterable[bytes]) -> Trace | None:
    headers = [(b"host", b"x")]
    headers += [(b"traceparent", value) for value in parents]
    return read_headers(headers + [(b"tracestate", value) for value in states])


@pytest.mark.parametrize(
    ("parent", "flags"),
    [
        (PARENT, SAMPLED),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", SAMPLED | RANDOM),
        (f" \t{PARENT} ", SAMPLED),
        (f"01-{TRACE}-{SPAN}-03", SAMPLED | RANDOM),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", SAMPLED),
    ],
)
def test_a_traceparent_is_read(parent: str, flags: int) -> None:
    found = read_trace([parent.encode()], [])
    assert found == Trace(TRACE, SPAN, flags, remote=True)


MALFORMED = [
    "",
    "00",
    TRACE,
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"cc-{TRACE}-{SPAN}-01.more",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-0g",
    f"00_{TRACE}_{SPAN}_01",
    f"00-{TRACE}-{SPAN}-01\u0660",
]


@pytest.mark.parametrize("parent", MALFORMED)
def test_a_malformed_one_is_dropped_and_a_trace_begun(parent: str) -> None:
    found = read_trace([parent.encode()], [b"a=1"])
    assert found is not None
    assert TRACE not in found.trace_id
    assert (found.state, found.remote, found.flags & SAMPLED) == ("", False, 0)


def test_one_that_is_repeated_is_dropped_and_none_is_none() -> None:
    found = read_trace([PARENT.encode()] * 2, [])
    assert found is not None
    assert found.trace_id != TRACE
    assert read_trace([], [b"a=1"]) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1 , b=2", "c=3"], "a=1,b=2,c=3"),
        (["a=1,,b=2", ""], "a=1,b=2"),
        (["tenant@system=x", "9a_-*/=!~"], "tenant@system=x,9a_-*/=!~"),
        (["a=1,a=2"], ""),
        (["a=1,b"], ""),
        (["A=1"], ""),
        (["a=b=c"], ""),
        (["a=\u00e9"], ""),
        ([",".join(f"k{n}=v" for n in range(MAX_MEMBERS))], ",".join(f"k{n}=v" for n in range(MAX_MEMBERS))),
        ([",".join(f"k{n}=v" for n in range(MAX_MEMBERS + 1))], ""),
        ([",".join(f"k{n}={'v' * 200}" for n in range(20))], ""),
    ],
)
def test_a_tracestate_is_kept_whole_or_dropped(states: list[str], kept: str) -> None:
    found = read_trace([PARENT.encode()], [state.encode() for state in states])
    assert found is not None
    assert (found.trace_id, found.state) == (TRACE, kept)


@given(st.lists(st.binary(max_size=80), max_size=2), st.lists(st.binary(max_size=40), max_size=3))
def test_whatever_comes_what_goes_on_is_well_formed(parents: list[bytes], states: list[bytes]) -> None:
    found = read_trace(parents, states)
    if found is None:
        assert not parents
        return
    (_, parent), *state = found.headers()
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", parent)
    again = read_trace([parent], [value for _, value in state])
    assert again is not None
    assert again.headers() == found.headers()
    assert len(found.state) <= MAX_STATE


# --- through a gateway


@pytest.mark.parametrize("target", ["/priced/a", "/open/a"])
def test_the_upstream_gets_the_trace_and_the_log_names_it(gateway: Gateway, upstream: Upstream, target: str) -> None:
    token = gateway.token()
    headers = (f"Traceparent: {PARENT}", "tracestate: a=1", "tracestate: b=2 ")
    answer = gateway.ask("GET", target, *headers, token=token if target == "/priced/a" else None)
    assert answer.status == 200
    heard = upstream.last()
    assert (heard.all("traceparent"), heard.all("tracestate")) == ([PARENT], ["a=1,b=2"])
    if target == "/priced/a":
        assert gateway.line_of(answer["tolsey-hold"])["trace"] == TRACE


def test_a_malformed_trace_is_begun_anew(gateway: Gateway, upstream: Upstream) -> None:
    answer = gateway.ask("GET", "/priced/a", "Traceparent: nonsense", "Tracestate: a=1", token=gateway.token())
    heard = upstream.last()
    (parent,) = heard.all("traceparent")
    assert "tracestate" not in heard
    assert gateway.line_of(answer["tolsey-hold"])["trace"] == parent.split("-")[1]


def test_a_call_without_a_trace_stays_without(gateway: Gateway, upstream: Upstream) -> None:
    answer = gateway.ask("GET", "/priced/a", "Tracestate: a=1", token=gateway.token())
    assert "traceparent" not in upstream.last()
    assert "tracestate" not in upstream.last()
    assert gateway.line_of(answer["tolsey-hold"])["trace"] is None


def test_a_configured_trace_is_the_only_one(gateway: Gateway, upstream: Upstream) -> None:
    gateway.ask("GET", "/keyed/a", f"Traceparent: {PARENT}", "Tracestate: a=1")
    heard = upstream.last()
    assert heard.all("traceparent") == ["00-00000000000000000000000000000001-0000000000000001-00"]
    assert "tracestate" not in heard
