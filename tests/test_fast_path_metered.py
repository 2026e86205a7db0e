"""The fast path with prices that only the answer tells: LLM calls, and what an upstream reports. Against the passage,
call by call, and what is its own: that each body is priced, and what takes the passage all the same.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests import cli, swarm
from tests.ends import Broken, Message
from tests.fast_paths import HEAD, LONG, ROUTE, Script, answer_to, counted, needs_wire, request, resolution
from tests.gateways import Gateway, child_of, lay_out, problem, serving, until
from tests.pairs import Pair, Told, assert_same, playing
from tests.scraping import scrape
from tests.upstreams import Upstream
from tolsey.gateway.native import OFF

pytestmark = needs_wire

MODELS: Final = """
[[model]]
name = "own-*"
input = "1 USD"
output = "2 USD"
context = 100_000
max_output = 100
[[model]]
name = "dear-*"
input = "10 USD"
output = "20 USD"
context = 100_000
max_output = 100
"""
PRICES: Final = {
    "open": 'llm = "openai"',
    "closed": 'llm = "anthropic"',
    "capped": 'llm = "openai"\nat_most = "0.5 USD"\ncharge = "success"',
    "header": 'reported = { header = "X-Cost", each = "1.2 USD" }\nat_most = "2 USD"',
    "json": 'price = "0.1 USD"\nreported = { json = "/usage/units", each = "0.01 USD" }\nat_most = "2 USD"',
}
CONFIG: Final = MODELS + "".join(
    ROUTE.format(name=name, upstream="plain", more=price) for name, price in PRICES.items()
)
JSON: Final = "Content-Type: application/json"
EVENTS: Final = b"Content-Type: text/event-stream\r\n"


def asking(**more: Any) -> bytes:  # noqa: ANN401 - it is JSON
    document = {"model": "own-1", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 100, **more}
    return json.dumps(document).encode()


def answering(status: str, body: bytes, *headers: bytes) -> bytes:
    head = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status.encode(), head, len(body), body)


def in_chunks(*pieces: bytes, head: bytes = HEAD) -> tuple[bytes, ...]:
    """An answer in chunks, each sent by itself."""
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return (head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")


USED: Final = b'{"model": "own-1", "usage": {"prompt_tokens": 10, "completion_tokens": 5}}'
EVENT: Final = b'data: {"choices": [{"delta": {"content": "Because"}}]}\n\n'
LAST: Final = b'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}\n\n'
LARGE: Final = b'{"choices": "%b", "usage": {"prompt_tokens": 10, "completion_tokens": 5}}' % (b"x" * 300_000)
OPENAI: Final[dict[str, bytes | Script]] = {
    "a usage": answering("200 OK", USED),
    "a usage, and the connection is kept": Script((answering("200 OK", USED),), "keep"),
    "a usage in chunks": Script(in_chunks(USED[:20], USED[20:])),
    "a usage until it closes": HEAD + b"\r\n" + USED,
    "a usage of parts": answering(
        "200 OK",
        b'{"usage": {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}}',
    ),
    "a large answer": answering("200 OK", LARGE),
    "a large answer in chunks": Script(in_chunks(*(LARGE[at : at + 50_000] for at in range(0, len(LARGE), 50_000)))),
    "a large answer that breaks off": answering("200 OK", LARGE)[:-9],
    "a stream": Script(in_chunks(EVENT, EVENT, LAST, head=HEAD + EVENTS)),
    "a stream in one piece": answering("200 OK", EVENT + LAST + b"data: [DONE]\n\n", EVENTS.strip()),
    "a long stream": Script(in_chunks(*[EVENT * 400] * 8, LAST, head=HEAD + EVENTS)),
    "a stream without usage": Script(in_chunks(EVENT, EVENT, head=HEAD + EVENTS)),
    "a stream that breaks off": Script(in_chunks(EVENT, EVENT, head=HEAD + EVENTS)[:-1]),
    "a long stream that breaks off": Script(in_chunks(*[EVENT * 400] * 8, head=HEAD + EVENTS)[:-1]),
    "no usage": answering("200 OK", b'{"choices": []}'),
    "a usage that is none": answering("200 OK", b'{"usage": {"prompt_tokens": -1, "completion_tokens": 5}}'),
    "more than was held": answering("200 OK", USED.replace(b"10", b"90000")),
    "no JSON": answering("200 OK", LONG[:1000]),
    "nothing": answering("200 OK", b""),
    "compressed": answering("200 OK", USED, b"Content-Encoding: gzip"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "the provider refuses it": answering("429 Too Many Requests", b'{"error": {}}'),
    "a refusal with a usage": answering("400 Bad Request", USED),
    "a failure": answering("500 Internal Server Error", b"oops"),
    "a failure with a usage": answering("503 Service Unavailable", USED),
    "a head that Python writes": answering("200 OK", USED, b"Connection: X-Hop", b"X-Hop: 1", b"Location: /a"),
    "a usage too many": answering("200 OK", USED) + USED,
    "no answer": b"",
    "a head that breaks off": HEAD + b"Content-Le",
    "an answer that breaks off": answering("200 OK", USED)[:-9],
}
ANTHROPIC: Final[dict[str, bytes | Script]] = {
    "a usage": answering("200 OK", b'{"type": "message", "usage": {"input_tokens": 10, "output_tokens": 5}}'),
    "a stream": Script(
        in_chunks(
            b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}\n\n',
            b'data: {"type": "content_block_delta", "delta": {"text": "Because"}}\n\n',
            b'data: {"type": "message_delta", "usage": {"output_tokens": 5}}\n\n',
            head=HEAD + EVENTS,
        )
    ),
}
REPORTS: Final[dict[str, bytes | Script]] = {
    "a header": answering("200 OK", b"{}", b"X-Cost: 0.5"),
    "a header twice": answering("200 OK", b"{}", b"X-Cost: 0.5", b"x-cost: 0.5"),
    "a field": answering("200 OK", b'{"usage": {"units": 3}}'),
    "a field in chunks": Script(in_chunks(b'{"usage"', b': {"units": 3}}')),
    "more than there may be": answering("200 OK", b'{"usage": {"units": 3000}}', b"X-Cost: 50"),
    "neither": answering("404 Not Found", b"{}"),
}
OF_CHAT: Final = {
    "chat": ("/open/v1/chat/completions", asking()),
    "chat in a stream": ("/open/v1/chat/completions", asking(stream=True, stream_options={"include_usage": True})),
    "a response": ("/open/v1/responses", asking(max_output_tokens=50)),
    "embeddings": ("/open/v1/embeddings", json.dumps({"model": "own-e", "input": "Why?"}).encode()),
    "chat where failures are free": ("/capped/v1/chat/completions", asking()),
    "what is bounded by nothing": ("/capped/v1/other", b"no JSON"),
}
OF_CLAUDE: Final = {
    "a message": ("/closed/v1/messages", asking()),
    "a message in a stream": ("/closed/v1/messages", asking(stream=True)),
}
OF_REPORTS: Final = {"a report in a header": ("/header/x", b"a body"), "a report in a field": ("/json/x", b"a body")}
Case = tuple[str, str]
SOME: Final = ("a usage", "a large answer", "a stream that breaks off", "no usage", "a failure", "no answer")
ASKED: Final[dict[str, Iterable[str]]] = {
    **dict.fromkeys(OF_CHAT, SOME),
    **dict.fromkeys(("chat", "chat in a stream"), OPENAI),
    **dict.fromkeys(OF_CLAUDE, (*SOME, *ANTHROPIC)),
    **dict.fromkeys(OF_REPORTS, REPORTS),
}
"""The answers to each request: all of them to what is asked most."""

CASES: Final[list[Case]] = [(asked, answer) for asked, answers in ASKED.items() for answer in dict.fromkeys(answers)]
REQUESTS: Final = OF_CHAT | OF_CLAUDE | OF_REPORTS


def script_of(asked: str, answer: str) -> Script:
    found = ({**OPENAI, **ANTHROPIC, **REPORTS} if asked in OF_CLAUDE else {**OPENAI, **REPORTS})[answer]
    return Script((found,)) if isinstance(found, bytes) else found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with playing(tmp_path_factory.mktemp("fast"), tmp_path_factory.mktemp("plain"), CONFIG) as found:
        yield found


def played(pair: Pair, asked: str, scripts: list[Script]) -> list[tuple[Told, Told]]:
    target, body = REQUESTS[asked]
    wanted = request("POST", target, pair.token, JSON, body=body)
    route = f"/{target.split('/')[1]}/*"
    return pair.told([pair.ask(script, wanted, route) for script in scripts])


@pytest.fixture(scope="module")
def told(pair: Pair) -> dict[Case, tuple[Told, Told]]:
    """What came of each answer to each request."""
    found: dict[Case, tuple[Told, Told]] = {}
    for asked, cases in itertools.groupby(CASES, key=lambda case: case[0]):
        named = list(cases)
        found.update(zip(named, played(pair, asked, [script_of(*case) for case in named]), strict=True))
    return found


@pytest.mark.parametrize(("asked", "answer"), CASES)
def test_an_answer_costs_the_same_both_ways(told: dict[Case, tuple[Told, Told]], asked: str, answer: str) -> None:
    fast, plain = told[asked, answer]
    assert fast == plain
    assert fast.entries


def test_they_cost_what_was_used(told: dict[Case, tuple[Told, Told]]) -> None:
    """So that both are not wrong together."""
    wanted = {
        ("chat", "a usage"): ("settle", 20_000, "200: own-1: 10 tokens in, 5 out, the config"),
        ("chat", "a large answer in chunks"): ("settle", 20_000, "200: own-1: 10 tokens in, 5 out, the config"),
        ("chat in a stream", "a long stream"): ("settle", 20_000, "200: own-1: 10 tokens in, 5 out, the config"),
        ("a message", "a usage"): ("settle", 20_000, "200: own-1: 10 tokens in, 5 out, the config"),
        ("a message in a stream", "a stream"): ("settle", 19_000, "200: own-1: 9 tokens in, 5 out, the config"),
        ("chat", "the provider refuses it"): ("settle", 0, "429: the provider refused it"),
        ("a report in a header", "a header"): ("settle", 600_000_000, "200"),
        ("a report in a field", "a field in chunks"): ("settle", 130_000_000, "200"),
    }
    assert {case: told[case][0].entries[-1] for case in wanted} == wanted
    unmetered = [case for case in CASES if "unmetered" in told[case][0].entries[-1][2]]
    assert ("chat", "no usage") in unmetered
    assert ("chat", "a usage in chunks") not in unmetered


WHOLE: Final = {
    "chat": b"".join(in_chunks(USED[:9], USED[9:], head=HEAD + b"X: 1\r\n")),
    "chat in a stream": b"".join(in_chunks(EVENT, LAST, head=HEAD + EVENTS)),
}


@pytest.mark.parametrize("asked", WHOLE)
def test_an_answer_that_is_cut_short_anywhere(pair: Pair, asked: str) -> None:
    whole = WHOLE[asked]
    scripts = [Script((whole[:at],)) for at in range(0, len(whole), 2)]
    wrong = [2 * at for at, (fast, plain) in enumerate(played(pair, asked, scripts)) if fast != plain]
    assert wrong == []


def test_all_of_them_took_the_way_that_they_should_have(pair: Pair) -> None:
    assert_same(pair)
    fast, plain = scrape(pair.fast), scrape(pair.plain)
    for route in ("/open/*", "/closed/*", "/capped/*"):
        for direction in ("input", "output"):
            tokens = [page.value("tolsey_llm_tokens_total", route=route, direction=direction) for page in (fast, plain)]
            assert tokens[0] == tokens[1] > 0


# --- what is its own


numbers = itertools.count()


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    more = "".join(ROUTE.format(name=f"l{number}", upstream="plain", more='llm = "openai"') for number in range(12))
    one = '[server]\nrevoked_calls = "cut"\n[[upstream]]\nname = "plain"\nurl = "http://127.0.0.1:<port>"\n'
    with serving(tmp_path_factory.mktemp("metered"), one + MODELS + more, port=upstream.port) as running:
        yield running
        assert "Traceback" not in running.said()


@pytest.fixture
def place() -> str:
    """A route that no other test calls."""
    return f"/l{next(numbers)}"


def chats(gateway: Gateway, target: str, token: str, *bodies: bytes) -> list[Message]:
    """The answers to these bodies, on one connection."""
    with gateway.client() as client:
        return [answer_to(client, request("POST", target, token, JSON, body=body)) for body in bodies]


def test_each_body_is_read_priced_and_sent_as_it_is(gateway: Gateway, upstream: Upstream, place: str) -> None:
    """All of these have the same head."""
    token, target = gateway.token(), f"{place}/v1/chat/completions"
    upstream.answers[target] = answering("200 OK", USED)
    bodies = [asking(model="own-12"), asking(model="dear-1"), asking(model="own-13"), asking(model="dear-2")]
    before = len(upstream.heard)
    cheap, dear, again, other = chats(gateway, target, token, *bodies)
    assert [each.body for each in upstream.heard[before:]] == bodies
    assert all(each["accept-encoding"] == "identity" for each in upstream.heard[before:])
    assert {len(body) for body in bodies} == {len(bodies[0])}
    assert (cheap["tolsey-quote"], "tolsey-cost" in cheap) == (again["tolsey-quote"], False)
    assert float(dear["tolsey-quote"].split()[0]) == pytest.approx(10 * float(cheap["tolsey-quote"].split()[0]))
    assert dear["tolsey-quote"] == other["tolsey-quote"]
    gateway.stands(token, spent="0.00044", calls=4)
    assert counted(gateway, f"{place}/*", 4) == 4


def test_what_is_refused_is_refused_as_it_would_be(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token, target = gateway.token(), f"{place}/v1/chat/completions"
    upstream.answers[target] = answering("200 OK", USED)
    narrow = child_of(token, "model = own-*", "max-price = 0.0005 USD", "label = n", "budget = 0.0006 USD")
    for bearer, body, status, code in (
        (narrow, asking(model="own-1"), 200, ""),
        (narrow, asking(model="dear-1"), 403, "caveat_refused"),
        (narrow, asking(model="own-1", n=9), 403, "caveat_refused"),
        (token, asking(model="unheard-of"), 422, "unpriceable"),
        (narrow, b'{"model": "own-1", "model": "own-2"}', 400, "request_invalid"),
        (narrow, asking(model="own-1"), 200, ""),
    ):
        (got,) = chats(gateway, target, bearer, body)
        assert (got.status, problem(got)["code"] if code else "") == (status, code)
    assert gateway.accounts(narrow)[1]["spent"] == "0.00004"
    # The two that were served; what is refused before the ledger takes the passage.
    assert counted(gateway, f"{place}/*", 6) == 2


def test_the_ledger_refuses_it_when_its_money_is_used_up(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token, target = gateway.token(), f"{place}/v1/chat/completions"
    upstream.answers[target] = answering("200 OK", b'{"no": "usage"}')
    poor = child_of(token, "label = poor n", "budget = 0.0008 USD")
    first, *others = chats(gateway, target, poor, *[asking()] * 4)
    assert first.status == 200
    assert {each.status for each in others} == {200, 402}
    refused = problem(others[-1])
    assert (refused["code"], refused["limit"]) == ("budget_exhausted", "0.0008")
    assert counted(gateway, f"{place}/*", 4) == 4


def test_a_stream_that_hides_its_usage_takes_the_passage(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token, target = gateway.token(), f"{place}/v1/chat/completions"
    upstream.answers[target] = b"".join(in_chunks(EVENT, LAST, head=HEAD + EVENTS))
    (got,) = chats(gateway, target, token, asking(stream=True))
    assert got.body == EVENT
    assert json.loads(upstream.last().body)["stream_options"] == {"include_usage": True}
    gateway.stands(token, spent="0.00002", calls=1)
    assert counted(gateway, f"{place}/*", 1) == 0


def test_a_client_that_leaves_pays_for_what_was_shown(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    with gateway.client() as client:
        body = asking(stream=True, stream_options={"include_usage": True})
        client.say(request("POST", f"{place}/talk/chat/completions", token, JSON, body=body))
        talk = upstream.hear()
        head, event, *_ = in_chunks(EVENT, head=HEAD + EVENTS)
        talk.say(head, event)
        assert client.head().status == 200
        assert client.chunk() == EVENT
    assert talk.is_left()
    talk.close()
    until(lambda: gateway.open_holds() == 0, "it is settled")
    kind, nano, note = resolution(gateway)
    assert kind == "settle"
    assert f"{len('Because') + 1} out, by what was shown" in note
    assert nano < 400_000
    assert counted(gateway, f"{place}/*", 1) == 1


def test_one_whose_token_is_revoked_is_cut_and_pays_what_was_held(
    gateway: Gateway, upstream: Upstream, place: str
) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.say(request("POST", f"{place}/talk/chat/completions", token, JSON, body=asking()))
        talk = upstream.hear()
        talk.say(HEAD, "Transfer-Encoding: chunked\r\n\r\n", "1\r\n{\r\n")
        assert client.head().status == 200
        assert client.chunk() == b"{"
        cli.answer("revoke", "-", "-c", str(gateway.file), stdin=token)
        with pytest.raises(Broken):
            client.chunk()
    talk.close()
    until(lambda: gateway.open_holds() == 0, "what was cut is settled")
    kind, _, note = resolution(gateway)
    assert (kind, note.split(":")[0]) == ("settle", "unmetered")
    assert counted(gateway, f"{place}/*", 1) == 1


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["", "1"], ids=["on the fast path", "in the passage"])
def test_what_is_under_way_when_the_gateway_ends_pays_for_what_was_shown(
    tmp_path: Path, upstream: Upstream, wire: str
) -> None:
    route = '[server]\n[[upstream]]\nname = "plain"\nurl = "http://127.0.0.1:<port>"\n' + MODELS
    own = lay_out(tmp_path, route + ROUTE.format(name="l", upstream="plain", more='llm = "openai"'), port=upstream.port)
    own.env[OFF] = wire
    with swarm.ending(own):
        own.begin()
        assert own.process is not None
        token = own.token()
        with own.client() as shown, own.client() as silent:
            body = asking(stream=True, stream_options={"include_usage": True})
            talks = []
            for client in (shown, silent):
                client.say(request("POST", "/l/talk/chat/completions", token, JSON, body=body))
                talks.append(upstream.hear())
            head, event, *_ = in_chunks(EVENT, head=HEAD + EVENTS)
            talks[0].say(head, event)
            assert shown.head().status == 200
            assert shown.chunk() == EVENT
            own.process.terminate()
            assert own.ends(40) == 0, own.said()
        for talk in talks:
            assert talk.is_left()
            talk.close()
        settled = sorted((entry.amount, entry.note) for entry in own.entries() if entry.kind == "settle")
        held = max(entry.amount for entry in own.entries() if entry.kind == "reserve")
        assert [amount == held for amount, _ in settled] == [False, True]
        assert settled[0][1].startswith("the client went away: ")
        assert f"{len('Because') + 1} out, by what was shown" in settled[0][1]
        assert settled[1][1] == "unmetered: the client went away"
        assert own.fsck().open_holds == 0
        assert "Traceback" not in own.said()
