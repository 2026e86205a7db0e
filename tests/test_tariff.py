"""Tariffs: which price a call has, what is held for it, and what it cost in the end."""

import json
import os
import random
from fractions import Fraction
from typing import Any

import pytest

from tests.tokens import call
from tolsey.call import parse_pattern
from tolsey.errors import Refusal
from tolsey.pricing.document import DocumentInvalid, parse_pointer, read_document, resolve, write_document
from tolsey.pricing.events import Events
from tolsey.pricing.tariff import Chosen, Cost, Price, Quote, Reported, Rule, Tariff
from tolsey.pricing.usage import Usage
from tolsey.units import NANO, parse_amount

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
GET = call(path="/s", query="")


def usd(text: str) -> int:
    return parse_amount(f"{text} USD").nano


def quoted(price: Price, size: int | None = 0) -> Quote:
    quote = Tariff(price).quote(Chosen(price), size)
    assert isinstance(quote, Quote), quote
    return quote


def spent(price: Price, *, seconds: float = 0, sent: int = 0, received: int = 0, status: int = 200) -> int:
    quote = quoted(price, size=sent)
    usage = quote.usage()
    usage.head(status, [])
    usage.body(b"x" * received)
    usage.ns = round(seconds * NANO)
    return quote.cost(status, usage).nano


# --- the sum


@pytest.mark.parametrize(
    ("price", "used", "cost"),
    [
        (Price("USD", usd("0.01")), {}, usd("0.01")),
        (Price("USD", usd("0.01")), {"seconds": 9, "sent": 9, "received": 9}, usd("0.01")),
        (Price("USD", per_second=1), {"seconds": 0.000000001}, 1),
        (Price("USD", usd("0.5"), per_second=usd("0.01")), {"seconds": 1.5}, usd("0.515")),
        (Price("USD", per_request_mb=usd("1")), {"sent": 1_000_000}, usd("1")),
        (Price("USD", per_request_mb=usd("1")), {"sent": 1}, usd("0.000001")),
        (Price("USD", per_response_mb=usd("1")), {"received": 2_500_000}, usd("2.5")),
        (Price("USD", per_request_mb=1, per_response_mb=1), {"sent": 500_000, "received": 500_000}, 1),
        (Price("USD", per_request_mb=1, per_response_mb=1), {"sent": 500_000, "received": 500_001}, 2),
        (Price("USD", per_response_mb=1), {"received": 0}, 1),
        (Price("USD", per_response_mb=usd("1"), at_most=usd("2")), {"received": 9_000_000}, usd("2")),
        (Price("USD", per_second=usd("1"), at_most=usd("5")), {"seconds": 3600}, usd("5")),
        (Price("USD", usd("1"), per_second=1, free_on_failure=True), {"seconds": 5, "status": 500}, 0),
        (Price("USD", usd("1"), per_second=1, free_on_failure=True), {"seconds": 5, "status": 499}, usd("1") + 5),
    ],
)
def test_what_is_used_is_summed_and_rounded_up_once(price: Price, used: dict[str, Any], cost: int) -> None:
    assert spent(price, **used) == cost


@pytest.mark.parametrize(
    ("price", "size", "held", "step"),
    [
        (Price("USD", 5), 0, 5, 0),
        (Price("USD", 5, per_second=3), 0, 35, 30),
        (Price("USD", per_request_mb=usd("1")), 2_000_000, usd("2"), 0),
        (Price("USD", per_request_mb=usd("1")), None, usd("1"), usd("1")),
        (Price("USD", 5, per_response_mb=7), 0, 12, 7),
        (Price("USD", 5, per_response_mb=7, at_most=9), 0, 9, 7),
        (Price("USD", 5, reported=Reported(1, b"x"), at_most=900), 0, 900, 0),
    ],
)
def test_what_is_held_at_first(price: Price, size: int | None, held: int, step: int) -> None:
    quote = quoted(price, size=size)
    assert (quote.amount.nano, quote.step) == (held, step)
    assert sum(nano for _, nano in quote.parts()) == held


@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"TOLSEY_SEED={seed}")
def test_a_cost_is_exact(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        flat, second, up, down = (chance.choice([0, 1, 7, usd("0.000000003"), usd("3.1")]) for _ in range(4))
        price = Price("USD", flat, second, up, down)
        sent, received, ns = chance.randrange(3_000_000), chance.randrange(100_000), chance.randrange(10**11)
        exact = price.flat + Fraction(price.per_second * ns, NANO)
        exact += Fraction(price.per_request_mb * sent + price.per_response_mb * received, 1_000_000)
        usage = Usage(sent=sent)
        usage.received, usage.ns = received, ns
        quote = quoted(price, size=sent)
        cost = quote.cost(200, usage).nano
        assert cost == max(-(-exact.numerator // exact.denominator), min(1, quote.amount.nano))


# --- which price


FULL = Rule(Price("USD", 5), pattern=parse_pattern("/s?depth=full"))
POSTS = Rule(Price("USD", 4), methods=("POST",))
GETS = Rule(Price("USD", 3), methods=("GET",))
GOLD = Rule(Price("USD", 2), headers=((b"x-tier", b"gold"),))
BELOW = Rule(Price("USD", 6), pattern=parse_pattern("/s/*"))


@pytest.mark.parametrize(
    ("rules", "attempt", "headers", "price"),
    [
        ((), {}, [], 1),
        ((FULL,), {"query": "depth=full"}, [], 5),
        ((FULL,), {"query": "depth=f%75ll&x=1"}, [], 5),
        ((FULL,), {"query": "depth=basic"}, [], 1),
        ((FULL,), {"query": ""}, [], 1),
        ((FULL,), {"query": "depth=basic&depth=full"}, [], "repeated"),
        ((FULL,), {"query": "depth=basic&Depth=full"}, [], "can be read as"),
        ((FULL,), {"query": "a;depth=full"}, [], "raw ';'"),
        ((FULL, POSTS), {"method": "POST", "query": "depth=full"}, [], 5),
        ((POSTS, FULL), {"method": "POST", "query": "depth=full"}, [], 4),
        ((GETS,), {"method": "HEAD"}, [], 3),
        ((POSTS,), {"method": "HEAD"}, [], 1),
        ((BELOW,), {"path": "/s/a"}, [], 6),
        ((BELOW,), {"path": "/s"}, [], 1),
        ((GOLD,), {}, [(b"x-tier", b" gold ")], 2),
        ((GOLD,), {}, [(b"x-tier", b"Gold")], 1),
        ((GOLD,), {}, [], 1),
        ((GOLD,), {}, [(b"x-tier", b"gold"), (b"x-tier", b"basic")], "repeated"),
        ((GOLD,), {}, [(b"x-tier", b"gold"), (b"connection", b"close, X-Tier")], "does not go upstream"),
    ],
)
def test_the_first_rule_that_fits_wins(
    rules: tuple[Rule, ...], attempt: dict[str, str], headers: list[tuple[bytes, bytes]], price: int | str
) -> None:
    tariff = Tariff(Price("USD", 1), rules)
    chosen = tariff.choose(call(**({"path": "/s", "query": ""} | attempt)), headers)  # type: ignore[arg-type]  # all are texts
    found = chosen if isinstance(chosen, Refusal) else tariff.quote(chosen)
    if isinstance(price, str):
        assert isinstance(found, Refusal)
        assert found.code == "unpriceable"
        assert price in found.detail
    else:
        assert isinstance(found, Quote)
        assert found.amount.nano == price


def test_a_call_that_no_rule_fits_has_no_price() -> None:
    found = Tariff(None, (POSTS,)).choose(GET, ())
    assert isinstance(found, Refusal)
    assert found.code == "unpriceable"


def test_a_price_that_fits_no_amount_is_no_price() -> None:
    price = Price("USD", per_request_mb=2**63 - 1)
    found = Tariff(price).quote(Chosen(price), 2_000_000)
    assert isinstance(found, Refusal)
    assert found.code == "unpriceable"


# --- what the upstream reports

AT_MOST = usd("2")
BY_HEADER = Price("USD", reported=Reported(usd("0.01"), header=b"x-units"), at_most=AT_MOST)
BY_JSON = Price("USD", usd("0.5"), reported=Reported(usd("0.01"), pointer=("usage", "units")), at_most=AT_MOST)
JSON = (b"content-type", b"application/json")
SSE = (b"content-type", b"text/event-stream; charset=utf-8")


def reported(price: Price, headers: list[tuple[bytes, bytes]], body: bytes = b"", *, whole: bool = True) -> Cost:
    quote = quoted(price)
    assert quote.amount.nano == AT_MOST
    usage = quote.usage()
    usage.head(200, headers)
    assert usage.body(body) == body
    if whole:
        assert usage.end() == b""
    cost = quote.cost(200, usage)
    assert 0 < cost.nano <= AT_MOST
    return cost


@pytest.mark.parametrize(
    ("value", "cost"),
    [("3", "0.03"), ("0.5", "0.005"), ("1e1", "0.1"), (" 7 ", "0.07"), ("200", "2"), ("0", "0.000000001")],
)
def test_a_reported_header_is_priced(value: str, cost: str) -> None:
    assert reported(BY_HEADER, [(b"x-units", value.encode())]) == Cost(usd(cost))


@pytest.mark.parametrize(
    "values",
    [[], ["3", "3"], ["-1"], ["NaN"], ["Infinity"], ["1e400"], ["9" * 50], ["many"], [""], ["0x10"], ["1,5"], ["201"],
     ["\u0663"]],
)  # fmt: skip
def test_a_header_that_is_no_usage_is_charged_the_worst_case(values: list[str]) -> None:
    cost = reported(BY_HEADER, [(b"x-units", value.encode()) for value in values])
    assert (cost.nano, cost.metered) == (AT_MOST, False)
    assert cost.note


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ('{"usage": {"units": 3}}', "0.53"),
        ('{"usage": {"units": "3"}}', "0.53"),
        ('{"usage": {"units": 2.5, "x": [1.5]}}', "0.525"),
        ('{"usage": {"units": 0}}', "0.5"),
        ('{"usage": {"units": 150}}', "2"),
    ],
)
def test_a_reported_field_is_priced(body: str, cost: str) -> None:
    assert reported(BY_JSON, [JSON], body.encode()) == Cost(usd(cost))


WRONG = [
    '{"usage": {"units": -1}}', '{"usage": {"units": NaN}}', '{"usage": {"units": Infinity}}',
    '{"usage": {"units": 1e400}}', '{"usage": {"units": 1' + "0" * 60 + "}}", '{"usage": {"units": "many"}}',
    '{"usage": {"units": true}}', '{"usage": {"units": null}}', '{"usage": {"units": [3]}}', '{"usage": {}}', "{}",
    '{"usage": {"units": 1, "units": 2}}', '{"usage": {"units": 1}, "usage": {"units": 1}}', '{"usage": {"units": 3',
    '{"usage": {"units": 151}}', "", "[]", "units=3", "[" * 100_000, '{"usage": {"units": ' + "1" * 5000 + "}}",
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_a_field_that_is_no_usage_is_charged_the_worst_case(body: str) -> None:
    cost = reported(BY_JSON, [JSON], body.encode())
    assert (cost.nano, cost.metered) == (AT_MOST, False)
    assert cost.note


def test_an_answer_that_breaks_off_or_is_compressed_is_charged_the_worst_case() -> None:
    good = b'{"usage": {"units": 3}}'
    assert not reported(BY_JSON, [JSON], good, whole=False).metered
    assert not reported(BY_JSON, [JSON, (b"content-encoding", b"gzip")], good).metered
    assert reported(BY_JSON, [JSON, (b"content-encoding", b"identity")], good).metered


def test_in_a_stream_the_last_event_that_has_the_field_counts() -> None:
    events = [{"usage": {"units": 1}}, {"usage": {"units": 4}}, {"x": 1}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    assert reported(BY_JSON, [SSE], body.encode()) == Cost(usd("0.54"))
    assert not reported(BY_JSON, [SSE], b"data: [DONE]\n\n").metered


# --- documents and pointers (RFC 6901, section 5)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("", None), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/m~0n", 8)],
)
def test_pointers(pointer: str, value: object) -> None:
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8}
    assert resolve(document, parse_pointer(pointer)) == (document if value is None else value)


@pytest.mark.parametrize("pointer", ["foo", "/a~2", "/~"])
def test_what_is_no_pointer(pointer: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        parse_pointer(pointer)


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/-", "/foo/01", "/foo/bar", "/none", "/foo/0/x"])
def test_a_pointer_to_nothing(pointer: str) -> None:
    with pytest.raises(LookupError):
        resolve({"foo": ["bar", "baz"]}, parse_pointer(pointer))


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '[{"b":1,"b":1}]', "NaN", "[-Infinity]", "\ufeff{}", "{'a':1}", "{}{}"]
)
def test_a_document_that_two_readers_could_read_differently_is_not_read(text: str) -> None:
    with pytest.raises(DocumentInvalid):
        read_document(text.encode())


def test_a_document_is_written_as_it_was_read() -> None:
    text = '{"a":1.5,"b":[true,null,"\\ud800\\u00e9"],"c":12345678901234567890123,"d":1e-07}'
    assert write_document(read_document(text.encode())) == text.encode()
    with pytest.raises(DocumentInvalid):
        write_document(read_document(b"[1e999]"))


# --- streams

STREAM = (
    b'\xef\xbb\xbfdata: {"n": 1}\n\n'
    b": a comment\r\nevent: x\r\ndata: a\r\ndata:  b\r\nid: 7\r\n\r\n"
    b"data\n\n\ndata: last\r\rretry: 5\n\n"
)
DATA = [b'{"n": 1}', b"a\n b", b"", b"", b"last", b""]


def test_a_stream_is_cut_into_its_events() -> None:
    events = Events().feed(STREAM)
    assert [event.data for event in events] == DATA
    assert b"".join(event.raw for event in events) == STREAM


def test_a_stream_may_be_split_at_every_byte() -> None:
    for first in range(len(STREAM) + 1):
        for second in range(first, len(STREAM) + 1, 7):
            reader = Events()
            found = [e for piece in (STREAM[:first], STREAM[first:second], STREAM[second:]) for e in reader.feed(piece)]
            assert [event.data for event in found] == DATA, (first, second)
            assert b"".join(event.raw for event in found) + reader.rest == STREAM
    reader = Events()
    assert [event.data for byte in STREAM for event in reader.feed(bytes([byte]))] == DATA
