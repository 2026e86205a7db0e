"""What the admin API makes of bad input: wrong types, huge values, markup and SQL, and what is no JSON at all."""

import json
from collections.abc import Iterator

import pytest

from tests.admins import Api, api_of, checked, minted, notes
from tests.ends import Client
from tests.gateways import Gateway, until
from tolsey.admin.api import MAX_BODY

CONFIG = """
[server]
mode = "enforce"
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
"""

UNKNOWN = "0" * 32


@pytest.fixture
def api(gateway: Gateway) -> Iterator[Api]:
    """The API with all rights."""
    with api_of(gateway) as found:
        yield found


HOSTILE = [
    "<script>alert(1)</script>",
    "'; DROP TABLE account; --",
    '" OR 1=1 --',
    "{{7*7}}",
    "\u202etxt.exe",
    "\U0001f600" * 27,
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_label_is_a_label(gateway: Gateway, api: Api, label: str) -> None:
    found = minted(api, label=label, reason=label)
    (account,) = api.get("/trail", prefix_id=found["prefix_id"])["accounts"]
    assert account["label"] == label
    assert notes(gateway, "open")[-1].endswith(f": {label}")
    assert gateway.ask("GET", "/api/v1/search", token=found["token"]).status == 200


GOOD: dict[str, object] = {"label": "x", "budget": "1 USD"}

WRONG_BUDGETS = ("-1 USD", "1e9 USD", "NaN USD", "9" * 20 + " USD", "1 XXX", "")

WRONG_LABELS: list[object] = [None, 3, True, [], {}, "", "x" * 129]

BAD_BODIES: list[tuple[str, object, str]] = [
    *(("mint", GOOD | {"label": value}, "request_invalid") for value in WRONG_LABELS),
    *(("mint", GOOD | {"label": value}, "caveat_invalid") for value in (" x", "a\nb", "a\u0000b", "é" * 65)),
    *(("mint", GOOD | {"budget": value}, "request_invalid") for value in (1, 1.5, ["1 USD"], "1" * 65)),
    *(("mint", GOOD | {"budget": value}, "caveat_invalid") for value in WRONG_BUDGETS),
    *(("mint", GOOD | {"scope": value}, "caveat_invalid") for value in ("", "a", "/../x", "/a%2fb")),
    *(("mint", GOOD | {"expires": value}, "caveat_invalid") for value in ("", "tomorrow", "2026-02-30", "0")),
    ("mint", GOOD | {"caveats": ["a = b"]}, "caveat_invalid"),
    ("mint", GOOD | {"caveats": ["label = two n"]}, "caveat_invalid"),
    ("mint", GOOD | {"caveats": ["action = mint"]}, "caveat_invalid"),
    ("mint", GOOD | {"caveats": ["purpose = x"] * 64}, "caveat_invalid"),
    ("mint", GOOD | {"caveats": ["purpose = x"] * 65}, "request_invalid"),
    ("mint", GOOD | {"caveats": "method = GET"}, "request_invalid"),
    ("mint", GOOD | {"caveats": ["x" * 1025]}, "request_invalid"),
    ("mint", GOOD | {"free_calls_only": True}, "request_invalid"),
    ("mint", GOOD | {"free_calls_only": "no"}, "request_invalid"),
    ("mint", GOOD | {"reason": "a\u2028b"}, "request_invalid"),
    ("mint", GOOD | {"reason": "x" * 501}, "request_invalid"),
    ("mint", GOOD | {"admin": True}, "request_invalid"),
    ("mint", {"label": "x"}, "request_invalid"),
    *(("mint", value, "request_invalid") for value in (None, [], "x", 7, [GOOD])),
    *(("keys/rotate", {"kind": value, "reason": "x"}, "request_invalid") for value in ("", "all", "capability\n", 1)),
    *(("holds/abc/void", {"reason": value}, "request_invalid") for value in ("", "  ", None, 1, "a\nb")),
    ("holds/abc/void", {}, "request_invalid"),
    ("holds/a%20b/void", {"reason": "x"}, "request_invalid"),
    ("holds/abc/refund", {"reason": "x", "amount": "1"}, "amount_invalid"),
    ("accounts/ABC/grant", {"reason": "x", "amount": "1 USD"}, "request_invalid"),
    (f"accounts/{UNKNOWN}/grant", {"reason": "x", "amount": "0 USD"}, "account_unknown"),
    (f"accounts/{UNKNOWN}/grant", {"reason": "x", "amount": "9223372036854775807 USD"}, "amount_invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "code"), BAD_BODIES, ids=[f"{p} {b!r}"[:70] for p, b, _ in BAD_BODIES])
def test_bad_input_is_refused(api: Api, path: str, body: object, code: str) -> None:
    # What another test has called is settled a moment later.
    until(lambda: all(account["held"] == "0" for account in api.get("/trail")["accounts"]), "nothing is held")
    before = api.get("/trail")["accounts"]
    assert api.refused("POST", f"/{path}", json=body)["code"] == code
    assert api.get("/trail")["accounts"] == before


RAW = [
    b"",
    b"{",
    b"\xff\xfe{}",
    b'{"label": "a", "label": NaN}',
    b'{"label": "\\ud800"}',
    b"[" * 50_000,
    b'{"label": ' + b"9" * 5_000 + b"}",
]


@pytest.mark.parametrize("body", RAW, ids=[repr(body[:20]) for body in RAW])
def test_what_is_no_json_is_refused(api: Api, body: bytes) -> None:
    refused = api.refused("POST", "/mint", content=body, headers={"Content-Type": "application/json"})
    assert refused["code"] == "request_invalid"


def test_a_secret_that_was_sent_is_not_sent_back(api: Api) -> None:
    refused = api.refused("POST", "/mint", json=GOOD | {"reason": {"token": api.token}})
    assert api.token not in json.dumps(refused)


def test_a_body_is_bounded_also_when_it_comes_in_pieces(gateway: Gateway, api: Api) -> None:
    json_type = {"Content-Type": "application/json"}
    whole = b'{"label": "x", "budget": "1 USD"}'
    full = whole + b" " * (MAX_BODY - len(whole))
    assert checked(api.http.post("/mint", content=full, headers=json_type))[0] == 201
    assert api.refused("POST", "/mint", content=full + b" ", headers=json_type)["code"] == "body_too_large"
    pieces = iter([b" " * 1000] * 200)
    assert api.refused("POST", "/mint", content=pieces, headers=json_type)["code"] == "body_too_large"
    form = {"Content-Type": "text/plain"}
    assert api.refused("POST", "/mint", content=whole, headers=form)["code"] == "request_invalid"
    with Client(gateway.admin_port) as client:
        client.say("POST /api/mint HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    assert api.get("/me")["label"] == "admin"


def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    for method, path, code in (
        ("GET", "/nothing", "route_missing"),
        ("GET", "/mint", "method_not_allowed"),
        ("DELETE", "/keys", "method_not_allowed"),
        ("GET", "/trail/", "route_missing"),
        ("POST", "/keys/..%2f..%2fx/drop", "route_missing"),
    ):
        assert api.refused(method, path)["code"] == code, path
    for query in (
        {"prefix": UNKNOWN},
        {"limit": ["1", "2"]},
        {"limit": "0"},
        {"limit": "10001"},
        {"offset": "-1"},
        {"depth": "33"},
        {"prefix_id": "x' OR 1"},
    ):
        assert api.refused("GET", "/trail", params=query)["code"] == "request_invalid", query
