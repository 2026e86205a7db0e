"""The price keys of tolsey.toml: what they are read as, and that every mistake has its line, key and plain text."""

from pathlib import Path

import pytest

from tolsey.call import parse_pattern
from tolsey.config import Config, load, problems
from tolsey.config_prices import MAX_RULES, Model
from tolsey.pricing.tariff import Price, Reported, Rule
from tolsey.units import NANO, parse_amount

UPSTREAM = '[[upstream]]\nname = "u"\nurl = "http://127.0.0.1:9000"\n'
ROUTE = UPSTREAM + '[[route]]\npath = "/*"\nmethods = ["*"]\nupstream = "u"\n'
"""Seven lines: what is appended begins in line 8."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tolsey.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, {})


PRICES: dict[str, Price] = {
    'price = "0.01 USD"': Price("USD", NANO // 100),
    'price = "1 sat"\nprice_per_second = "2 sat"\ncharge = "success"': Price(
        "sat", NANO, 2 * NANO, free_on_failure=True
    ),
    'price_per_second = "2 sat"': Price("sat", per_second=2 * NANO),
    'price_per_request_mb = "1 EUR"\nprice_per_response_mb = "2 EUR"\nat_most = "3 EUR"': Price(
        "EUR", per_request_mb=NANO, per_response_mb=2 * NANO, at_most=3 * NANO
    ),
    'reported = { header = "X-Cost", each = "1 USD" }\nat_most = "2 USD"': Price(
        "USD", reported=Reported(NANO, header=b"x-cost"), at_most=2 * NANO
    ),
    'reported = { json = "/a~1b/0", each = "1 USD" }\nat_most = "2 USD"': Price(
        "USD", reported=Reported(NANO, pointer=("a/b", "0")), at_most=2 * NANO
    ),
    'llm = "openai"': Price("USD", llm="openai"),
    'llm = "anthropic"\nprice = "0.001 USD"\nat_most = "1 USD"': Price(
        "USD", NANO // 1000, llm="anthropic", at_most=NANO
    ),
}


@pytest.mark.parametrize("text", PRICES)
def test_a_price_is_read(file: Path, text: str) -> None:
    (route,) = read(file, ROUTE + text).routes
    assert (route.price, route.rules) == (PRICES[text], ())


def test_rules_are_read(file: Path) -> None:
    text = """
[[route.rule]]
methods = ["POST", "PUT"]
path = "/a/*?x=1"
headers = { X-Tier = " gold " }
price = "1 USD"
[[route.rule]]
methods = ["GET"]
llm = "openai"
"""
    (route,) = read(file, ROUTE + text).routes
    assert route.price is None
    assert route.rules == (
        Rule(Price("USD", NANO), ("POST", "PUT"), parse_pattern("/a/*?x=1"), ((b"x-tier", b"gold"),)),
        Rule(Price("USD", llm="openai"), ("GET",)),
    )


def test_models_are_read(file: Path) -> None:
    text = '[[model]]\nname = "a-*"\ninput = "1 USD"\noutput = "0 USD"\ncache_read = "0.1 USD"\ncontext = 5\n'
    (model,) = read(file, text).models
    one, zero, tenth = (parse_amount(each) for each in ("1 USD", "0 USD", "0.1 USD"))
    assert model == Model("a-*", one, zero, tenth, None, 5, None)


BAD: list[tuple[str, int, str, str]] = [
    # text, line, key, part of the message
    ("", 4, "route[0].price", "is missing; an enforce route has one"),
    ("price = 1", 8, "route[0].price", "must be a string"),
    ("price_per_second = '1'", 8, "route[0].price_per_second", "is not an amount"),
    ("price = '1 USD'\nprice_per_second = '1 sat'", 9, "route[0].price_per_second", "is in sat, and another part"),
    ("price_per_second = '999999 USD'", 8, "route[0].price_per_second", "a day of it fits no amount"),
    ("at_most = '1 USD'", 8, "route[0].at_most", "needs a price beside it"),
    ("price = '2 USD'\nat_most = '1 USD'", 9, "route[0].at_most", "must be above 0, and not below the price"),
    ("price = '0 USD'\nat_most = '0 USD'", 9, "route[0].at_most", "must be above 0"),
    ("llm = 'gemini'", 8, "route[0].llm", 'must be "openai" or "anthropic", not "gemini"'),
    ("llm = 'openai'\nprice = '1 sat'", 9, "route[0].price", "is in sat"),
    ("llm = 'openai'\nprice_per_second = '1 USD'", 9, "route[0].price_per_second", "is not for a route with llm"),
    ("reported = { json = '/a', each = '1 USD' }", 4, "route[0].at_most", "is missing: what the upstream reports"),
    ("at_most = '1 USD'\nreported = 'x'", 9, "route[0].reported", "must be a table"),
    ("at_most = '1 USD'\nreported = { json = '/a' }", 9, "route[0].reported.each", "is missing"),
    ("at_most = '1 USD'\nreported = { each = '1 USD' }", 9, "route[0].reported", "either a header or a json"),
    ("at_most = '1 USD'\nreported = { each = '1 USD', json = '/a', header = 'x' }", 9, "route[0].reported", "either"),
    ("at_most = '1 USD'\nreported = { each = '1 USD', json = 'a' }", 9, "route[0].reported.json", "begins with '/'"),
    ("at_most = '1 USD'\nreported = { each = '1 USD', header = 'a b' }", 9, "route[0].reported.header", "not a header"),
    ("at_most = '1 USD'\nreported = { each = '1 USD', header = 'a', x = 1 }", 9, "route[0].reported.x", "unknown key"),
    ("[[route.rule]]\nprice = '1 USD'", 8, "route[0].rule[0].path", "methods, a path or headers"),
    ("[[route.rule]]\nmethods = ['GET']", 8, "route[0].rule[0].price", "is missing; a rule has one"),
    ("[[route.rule]]\nmethods = ['*']\nprice = '1 USD'", 9, "route[0].rule[0].methods[0]", "is not one of GET"),
    ("[[route.rule]]\npath = 'a'\nprice = '1 USD'", 9, "route[0].rule[0].path", "is not a pattern"),
    ("[[route.rule]]\nheaders = { A = 1 }\nprice = '1 USD'", 9, "route[0].rule[0].headers.A", "needs a header name"),
    *(
        (f"[[route.rule]]\nprice = '1 USD'\nheaders.{name} = 'x'", 10, f"route[0].rule[0].headers.{name}", "not go up")
        for name in ("Authorization", "X-Api-Key", "Tolsey-Tag", "X-Forwarded-For", "Connection", "Host", "TE")
    ),
    ("[[route.rule]]\npth = '/a'\npath = '/a'\nprice = '1 USD'", 9, "route[0].rule[0].pth", "did you mean"),
    ("rule = 5", 8, "route[0].rule", "must be an array of tables"),
    (
        "".join("[[route.rule]]\npath = '/a'\nprice = '1 USD'\n" for _ in range(MAX_RULES + 1)),
        8 + 3 * MAX_RULES,
        f"route[0].rule[{MAX_RULES}]",
        "at most 64",
    ),
    ("mode = 'public'\nllm = 'openai'", 4, "route[0].price", "charges nobody"),
    ("mode = 'public'\n[[route.rule]]\npath = '/a'\nprice = '1 USD'", 4, "route[0].price", "charges nobody"),
    ("price = '1 USD'\n[[model]]\nname = 'm'\noutput = '1 USD'", 9, "model[0].input", "is missing"),
    ("price = '1 USD'\n[[model]]\nname = 'm'\ninput = '1 USD'", 9, "model[0].output", "is missing"),
    ("price = '1 USD'\n[[model]]\nname = 'm'\ninput = '1 EUR'\noutput = '1 USD'", 11, "model[0].input", "are in USD"),
    ("price = '1 USD'\n[[model]]\nname = 'm m'\ninput = '1 USD'\noutput = '1 USD'", 10, "model[0].name", "the name"),
    ("price = '1 USD'\n[[model]]\nname = 'm'\ninput = '1 USD'\noutput = '1 USD'\ncontext = 0", 13, "model[0].context",
     "must be from 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "part"), BAD, ids=range(len(BAD)))
def test_every_mistake_has_its_line_and_its_key(file: Path, text: str, line: int, key: str, part: str) -> None:
    file.write_text(ROUTE + text)
    found = problems(file, {})
    assert (line, key) in [(error.line, error.key) for error in found], found
    assert part in next(error.reason for error in found if error.key == key)
