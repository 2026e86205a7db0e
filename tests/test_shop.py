"""What strangers may read before they pay: offers and prices, for programs and for models, out of the config."""

import json
from pathlib import Path

from tests.gateways import Gateway, serving
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream

CONFIG = PAYMENTS


def test_the_manifest_names_every_offer_and_its_routes(gateway: Gateway, upstream: Upstream) -> None:
    with upstream.hears_nothing():
        answer = gateway.ask("GET", "/.well-known/l402.json")
    assert answer["content-type"] == "application/json"
    document = json.loads(answer.body)
    assert (document["version"], document["provider"]) == ("1.0", {"name": "Tolsey", "fake": True})
    assert document["offers"][0] == {
        "name": "purse",
        "kind": "purse",
        "price_msat": 1_000_000,
        "budget": "1000",
        "budget_unit": "sat",
        "calls": None,
        "valid_seconds": 3600,
        "challenge": "/.tolsey/offers/purse",
    }
    assert (document["offers"][1]["kind"], document["offers"][1]["price_msat"]) == ("call", None)
    resources = {(r["method"], r["path"]): r for r in document["services"][0]["resources"]}
    assert list(resources) == [
        *(("GET", "/search"), ("POST", "/search"), ("GET", "/dear"), ("GET", "/one/*"), ("GET", "/free")),
        ("GET", "/both"),
    ]
    assert resources["GET", "/one/*"] == {
        "method": "GET",
        "path": "/one/*",
        "pricing": {"model": "fixed", "price": "0.02 USD", "price_msat": 32_000},
        "offers": ["call"],
    }


def test_models_read_the_same_in_words(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/llms.txt")
    assert answer["content-type"].startswith("text/plain")
    text = answer.body.decode()
    for line in (
        "# Tolsey",
        "> This is a test: its payments are FAKE and worth nothing.",
        "- purse: 1000 sat, for 1000 sat to spend, for 3600 seconds (`/.tolsey/offers/purse`)",
        "- call: the price of the call, for one call",
        "- `GET POST /search`: 300 sat (offers: purse)",
        "- `GET /one/*`: 0.02 USD (offers: call)",
    ):
        assert line in text.splitlines(), text
    assert "members" not in text
    assert gateway.ask("HEAD", "/llms.txt").body == b""
    assert gateway.ask("POST", "/llms.txt").status == 405


def test_prices_of_every_kind_have_words(tmp_path: Path, upstream: Upstream) -> None:
    config = CONFIG.replace(
        'price = "300 sat"',
        'price = "1 sat"\nprice_per_second = "2 sat"\nprice_per_request_mb = "3 sat"\n'
        'reported = { header = "X-Cost", each = "1 sat" }\nat_most = "90 sat"',
    ).replace("[payment]\n", '[payment]\nservice = "Ünïque"\n')
    with serving(tmp_path, config, port=upstream.port) as gateway:
        words = "1 sat and 2 sat a second and 3 sat a megabyte of request and what the upstream reports, at most 90 sat"
        assert f"- `GET POST /search`: {words} (offers: purse)" in gateway.ask("GET", "/llms.txt").body.decode()
        document = json.loads(gateway.ask("GET", "/.well-known/l402.json").body)
        assert document["services"][0]["name"] == "Ünïque"
        assert document["services"][0]["resources"][0]["pricing"] == {"model": "dynamic", "price": [words]}


def test_without_payments_these_paths_are_the_upstreams(tmp_path: Path, upstream: Upstream) -> None:
    config = CONFIG[: CONFIG.index("[payment]")] + CONFIG[CONFIG.index("[[upstream]]") :]
    config = "\n".join(line for line in config.splitlines() if not line.startswith("offers"))
    config = config.replace('path = "/free"', 'path = "/*"')
    with serving(tmp_path, config, port=upstream.port) as gateway:
        for path in ("/llms.txt", "/.well-known/l402.json"):
            assert gateway.ask("GET", path, token=gateway.token(budget="1 sat")).status == 200
            assert upstream.last().target == path
        for path in ("/.tolsey/offers/purse", "/.tolsey/fake/pay"):
            assert gateway.ask("GET", path).status == 404
        assert gateway.ask("GET", "/search", "Authorization: L402 AAAA:" + "00" * 32).status == 401
