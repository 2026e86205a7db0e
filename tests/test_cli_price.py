"""`tolsey price`: what a call would reserve, and why; and what `verify` says of a price that stands in a body."""

import json
from pathlib import Path

import pytest

from tests.cli import gateway, invoke

CONFIG = """
[[upstream]]
name = "u"
url = "http://127.0.0.1:9000"
headers = { Authorization = "Bearer ${NOT_SET}" }
[[route]]
path = "/open"
methods = ["GET"]
upstream = "u"
mode = "public"
[[route]]
path = "/v1/*"
methods = ["POST"]
upstream = "u"
llm = "openai"
max_body = 1000
[[route]]
path = "/*"
methods = ["GET", "POST"]
upstream = "u"
price = "0.01 USD"
price_per_request_mb = "1 USD"
price_per_response_mb = "2 USD"
price_per_second = "0.1 USD"
[[route.rule]]
headers = { X-Tier = "gold" }
path = "/gold?a=b"
price = "0.5 USD"
at_most = "1 USD"
price_per_second = "1 USD"
[[model]]
name = "own"
input = "1 USD"
output = "2 USD"
context = 10_000
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = gateway(tmp_path / "g", CONFIG).parent
    monkeypatch.chdir(found)
    return found


def test_every_part_is_named(place: Path) -> None:
    (place / "body").write_bytes(b"x" * 500_000)
    status, out, _ = invoke("price", "--method", "POST", "--path", "/a", "--body", "body", "--json")
    found = json.loads(out)
    assert status == 0
    assert {key: found[key] for key in ("amount", "unit", "rule", "metered", "model", "route", "upstream", "mode")} == {
        "amount": "3.51", "unit": "USD", "rule": None, "metered": True, "model": None, "route": "/*", "upstream": "u",
        "mode": "enforce",
    }  # fmt: skip
    assert [(part["part"], part["amount"]) for part in found["parts"]] == [
        ("the flat price", "0.01"),
        ("500000 bytes of request", "0.5"),
        ("the response, by the megabyte", "2"),
        ("the time, by 10 seconds", "1"),
    ]
    assert len(found["config"]) == 12


def test_a_rule_is_named() -> None:
    words = ("price", "--path", "/gold", "--query", "a=b", "--header", "X-Tier: gold")
    status, out, _ = invoke(*words)
    assert status == 0
    assert "reserves 1 USD: route /*, its rule number 0" in out
    assert "never more than at_most" in out


def test_an_llm_call() -> None:
    body = '{"model": "own", "max_tokens": 10, "messages": []}'
    words = ("price", "--method", "POST", "--path", "/v1/chat/completions", "--body", "-")
    status, out, _ = invoke(*words, "--json", stdin=body)
    found = json.loads(out)
    assert (status, found["model"]) == (0, "own")
    assert found["amount"] == f"0.{(len(body) + 64) * 1000 + 10 * 2000:09d}".rstrip("0")
    refused = {
        body.replace("own", "none"): "unpriceable",
        "{}": "request_invalid",
        "": "request_invalid",
        body + " " * 1000: "body_too_large",
    }
    for wrong, code in refused.items():
        status, _, said = invoke(*words, "--json", stdin=wrong)
        assert (status, json.loads(said)["code"]) == (1, code)


def test_what_costs_nothing() -> None:
    status, out, _ = invoke("price", "--path", "/open")
    assert (status, out) == (0, "GET /open is public, goes to u, costs nothing.\n")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--path", "/a/../b"], 1, "path_invalid"),
        (["--path", "/open", "--method", "PUT"], 1, "method_not_allowed"),
        (["--path", "/gold?a=b&a=c", "--header", "X-Tier: gold"], 1, "unpriceable"),
        (["--path", "/gold?a=b", "--query", "a=b"], 2, "not in both"),
        (["--path", "/gold", "--header", "X-Tier"], 2, "is not a header"),
        (["--path", "/a", "--body", "none"], 1, "none"),
        ([], 2, "--path"),
    ],
)
def test_what_has_no_price(words: list[str], status: int, said: str) -> None:
    got, out, error = invoke("price", *words)
    assert (got, out) == (status, "")
    assert said in error


def test_verify_says_that_the_price_stands_in_the_body() -> None:
    mint = ("mint", "--label", "a", "--budget", "1 USD", "--scope", "/*", "--expires", "2030-01-01")
    status, token, said = invoke(*mint)
    assert status == 0, said
    words = ("verify", "-", "--method", "POST", "--path", "/v1/chat/completions")
    status, out, said = invoke(*words, stdin=token)
    assert status == 0, said
    assert "costs what its body asks for, charged to 1 accounts" in out
