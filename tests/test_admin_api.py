"""The admin API on a real gateway: who may do what, what becomes of it in the ledger, and what no token ever gets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.admins import CONFIG as OF_BOTH
from tests.admins import SECRET, Api, admin_token, api_of, checked, minted, notes
from tests.gateways import Gateway, child_of, until
from tests.reading import entries
from tests.upstreams import Upstream
from tolsey import inspect
from tolsey.token.admin_caveats import ACTIONS

CONFIG = (
    OF_BOTH
    + """
[[route]]
path = "/api/v1/free"
methods = ["GET"]
upstream = "search"
price = "0 USD"
"""
)

UNKNOWN = "0" * 32


@pytest.fixture
def api(gateway: Gateway) -> Iterator[Api]:
    """The API with all rights."""
    with api_of(gateway) as found:
        yield found


def test_a_minted_token_opens_the_gateway_and_says_who_minted_it(gateway: Gateway, api: Api) -> None:
    found = minted(
        api, label="team <q2>", scope="/api/v1/*", expires="2030-06-30", caveats=["method = GET"], reason="q2"
    )
    assert [text.rpartition(" ")[0] for text in found["caveats"][:1]] == ["label = team <q2>"]
    assert found["caveats"][1:] == ["scope = /api/v1/*", "expires = 2030-06-30", "method = GET", "budget = 10 USD"]
    assert gateway.ask("GET", "/api/v1/search", token=found["token"]).status == 200
    gateway.stands(found["token"], spent="0.01", calls=1)
    (account,) = api.get("/trail", prefix_id=found["prefix_id"])["accounts"]
    assert (account["label"], account["limit"], account["spent"], account["left"]) == (
        "team <q2>",
        "10",
        "0.01",
        "9.99",
    )
    assert notes(gateway, "open")[-1] == f"minted by {api.get('/me')['who']}: q2"


def test_the_day_pass(gateway: Gateway) -> None:
    """May mint up to 100 USD under /api/v1/search, for a day: handed on offline, and kept in the ledger."""
    caveats = ("label = intern n", "action = mint, trail", "mint-scope = /api/v1/search", "mint-budget = 100 USD")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with api_of(gateway, *caveats, f"expires = {tomorrow}", "mint-lifetime = 24h") as api:
        first = minted(api, label="a", budget="60 USD")
        assert "scope = /api/v1/search" in first["caveats"]
        assert any(text.startswith("expires = ") for text in first["caveats"])
        status, refused = api.post("/mint", label="b", budget="40.01 USD")
        assert (status, refused["code"]) == (402, "budget_exhausted")
        assert (refused["limit"], refused["spent"], refused["remaining"]) == ("100", "60", "40")
        assert refused["link"]["label"] == "intern"
        purse = refused["link"]["prefix_id"]
        assert minted(api, label="b", budget="40 USD")
        assert api.post("/mint", label="c", budget="0.000000001 USD")[1]["code"] == "budget_exhausted"
        for body in ({"budget": "1 USD/day"}, {"budget": "1 sat"}, {"scope": "/api/v1/*", "budget": "1 USD"}):
            assert api.post("/mint", label="d", **body)[1]["code"] == "caveat_refused", body
        status, refused = api.post(f"/accounts/{first['prefix_id']}/grant", amount="1 USD", reason="more")
        assert (status, refused["caveat"]) == (403, "action = mint, trail")
        me = api.get("/me")
        assert me["actions"] == ["mint", "trail"]
        assert me["caveats"] == [*caveats[1:], f"expires = {tomorrow}", "mint-lifetime = 24h"]
        (account,) = (row for row in api.get("/trail")["accounts"] if row["id"] == purse)
    assert gateway.ask("GET", "/api/v1/search", token=first["token"]).status == 200
    assert gateway.ask("GET", "/api/v1/free", token=first["token"]).status == 403
    assert [account[name] for name in ("label", "limit", "spent", "calls")] == ["intern", "100", "100", 2]


def test_a_free_token_takes_nothing_from_a_mint_budget(gateway: Gateway) -> None:
    with api_of(gateway, "mint-budget = 0 USD") as api:
        found = minted(api, budget=None, free_calls_only=True)
        assert gateway.ask("GET", "/api/v1/free", token=found["token"]).status == 200
        assert minted(api, budget="0 USD")
        assert api.post("/mint", label="x", budget="0.1 USD")[1]["code"] == "budget_exhausted"


def test_grants_come_out_of_the_mint_budget_or_go_back(gateway: Gateway, api: Api) -> None:
    team = minted(api)["prefix_id"]
    with api_of(gateway, "label = lead n", "mint-budget = 5 USD") as lead:
        assert lead.post(f"/accounts/{UNKNOWN}/grant", amount="4 USD", reason="x")[1]["code"] == "account_unknown"
        assert lead.post(f"/accounts/{team}/grant", amount="4 sat", reason="x")[1]["code"] == "caveat_refused"
        status, granted = lead.post(f"/accounts/{team}/grant", amount="4 USD", reason="a longer run")
        assert (status, granted["left"], granted["reason"]) == (200, "14", "a longer run")
        assert lead.post(f"/accounts/{team}/grant", amount="1.01 USD", reason="x")[1]["code"] == "budget_exhausted"
        taking = [entry for entry in entries(gateway.ledger) if "4 USD granted" in entry.note][-1]
        assert lead.post(f"/holds/{taking.hold}/refund", reason="mine")[1]["code"] == "hold_refused"
        assert lead.post(f"/holds/{taking.hold}/void", reason="mine")[1]["code"] == "hold_refused"
        (account,) = (row for row in lead.get("/trail")["accounts"] if row["label"] == "lead")
        assert (account["limit"], account["spent"], account["calls"]) == ("5", "4", 1)
    assert notes(gateway, "grant")[-1].endswith(": a longer run")
    assert "admin lead (" in notes(gateway, "grant")[-1]
    assert api.post(f"/holds/{taking.hold}/refund", reason="a mistake")[0] == 200
    assert api.post(f"/accounts/{team}/grant", amount="1.5 call", reason="x")[1]["code"] == "grant_refused"


def test_money_by_hand(gateway: Gateway, api: Api, upstream: Upstream) -> None:
    token = minted(api, label="hand")["token"]
    answer = gateway.ask("GET", "/api/v1/search", token=token)
    hold = answer["tolsey-hold"]
    gateway.stands(token, spent="0.01", calls=1)
    assert api.post(f"/holds/{hold}/void", reason="x")[1]["code"] == "hold_refused"
    status, back = api.post(f"/holds/{hold}/refund", amount="0.004 USD", reason="half of it was wrong")
    assert (status, back["returned"], back["unit"], back["was"]) == (200, "0.004", "USD", "charged")
    assert back["by"] == api.get("/me")["who"]
    assert api.post(f"/holds/{hold}/refund", amount="0.01 USD", reason="x")[1]["code"] == "hold_refused"
    assert api.post(f"/holds/{hold}/refund", amount="1 sat", reason="x")[1]["code"] == "hold_refused"
    assert api.post(f"/holds/{hold}/refund", reason="all of it")[1]["returned"] == "0.006"
    assert api.post("/holds/no-such-hold/void", reason="x")[1]["code"] == "hold_unknown"
    gateway.stands(token, spent="0", calls=1)
    assert notes(gateway, "refund")[-1].endswith(": all of it")
    with gateway.client() as client:
        client.ask("GET", "/api/v1/talk", token=token)
        talk = upstream.hear()
        until(lambda: api.get("/holds")["holds"], "the call is held")
        (held,) = api.get("/holds")["holds"]
        assert (held["amount"], held["unit"], held["call"]) == ("0.01", "USD", "GET /api/v1/talk")
        assert [link["label"] for link in held["chain"]] == ["hand"]
        status, back = api.post(f"/holds/{held['hold']}/void", reason="it hangs")
        assert (status, back["was"], back["returned"]) == (200, "open", "0.01")
        talk.answers()
        assert client.answer().status == 200
    assert api.get("/holds") == {"holds": [], "more": False}


def test_the_trail_comes_in_pages_and_levels(gateway: Gateway, api: Api) -> None:
    root = minted(api, label="pages")
    children = [child_of(root["token"], f"label = child-{n} n", "budget = 1 USD") for n in range(5)]
    for child in children:
        assert gateway.ask("GET", "/api/v1/search", token=child).status == 200
    whole = api.get("/trail", prefix_id=root["prefix_id"])
    assert [row["label"] for row in whole["accounts"]] == ["pages", *(f"child-{n}" for n in range(5))]
    assert [row["depth"] for row in whole["accounts"]] == [0, 1, 1, 1, 1, 1]
    assert whole["next"] is None
    assert len(api.get("/trail", prefix_id=root["prefix_id"], depth=0)["accounts"]) == 1
    pages = [api.get("/trail", prefix_id=root["prefix_id"], limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [[row["label"] for row in page["accounts"]] for page in pages] == [
        ["pages", "child-0"],
        ["child-1", "child-2"],
        ["child-3", "child-4"],
    ]
    assert [page["next"] for page in pages] == [2, 4, None]
    assert api.refused("GET", "/trail", params={"prefix_id": UNKNOWN})["code"] == "account_unknown"


def test_the_report(gateway: Gateway, api: Api) -> None:
    token = minted(api, label="reported")["token"]
    assert gateway.ask("GET", "/api/v1/search", token=token).status == 200

    def found() -> list[dict[str, Any]]:
        groups = api.get("/report", by="agent,route", agent="reported")["groups"]
        return [group | {"p50_ms": 0, "p95_ms": 0} for group in groups]

    until(found, "the call is tallied")
    assert found() == [
        {
            "agent": "reported",
            "verified": True,
            "route": "/api/v1/search",
            "calls": 1,
            "errors": 0,
            "refused": 0,
            "would_refuse": 0,
            "spend": {"USD": "0.01"},
            "p50_ms": 0,
            "p95_ms": 0,
        }
    ]
    assert api.get("/report", since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z")["groups"] == []
    assert api.refused("GET", "/report", params={"by": "colour"})["code"] == "request_invalid"
    assert api.refused("GET", "/report", params={"since": "2026-01-01T00:00:00Z"})["code"] == "request_invalid"


def test_keys_are_rotated_and_dropped_and_never_shown(gateway: Gateway, api: Api) -> None:
    old = minted(api, label="of the old key")["token"]
    before = api.get("/keys")["keys"]
    status, new = api.post("/keys/rotate", kind="capability", reason="every quarter")
    assert status == 200
    assert new["before"] == before[0]["id"]
    assert "token" not in json.dumps(new)
    until(lambda: gateway.ask("GET", "/api/v1/free", token=minted(api)["token"]).status == 200, "the new key is known")
    assert gateway.ask("GET", "/api/v1/free", token=old).status == 200
    assert api.post(f"/keys/{new['id']}/drop", reason="x")[1]["code"] == "key_in_use"
    assert api.post("/keys/nosuchkey/drop", reason="x")[1]["code"] == "key_unknown"
    status, dropped = api.post(f"/keys/{new['before']}/drop", reason="it leaked")
    assert (status, dropped["kind"]) == (200, "capability")
    until(lambda: gateway.ask("GET", "/api/v1/free", token=old).status == 401, "the old key is gone")
    who = api.get("/me")["who"]
    assert notes(gateway, "keys")[-2:] == [
        f"capability key {new['id']} added by {who}: every quarter",
        f"capability key {new['before']} dropped by {who}: it leaked",
    ]
    secrets = [key["secret"] for key in json.loads(gateway.keys.read_bytes())["keys"]]
    assert not any(secret in json.dumps(api.get("/keys")) for secret in secrets)
    # An admin key that is added gives nobody a token; one that is dropped ends those made with it within a second.
    status, new = api.post("/keys/rotate", kind="admin", reason="someone left")
    assert (status, "tolsey_" in json.dumps(new)) == (200, False)
    with api_of(gateway) as newer:
        until(lambda: checked(newer.http.get("/me"))[0] == 200, "the new admin key is known")
        assert newer.post(f"/keys/{new['before']}/drop", reason="someone left")[0] == 200
        until(lambda: checked(api.http.get("/me"))[0] == 401, "the old admin key is gone")


def test_the_config_is_shown_without_secrets(gateway: Gateway, api: Api) -> None:
    state = api.get("/config")
    assert state["upstreams"][0]["headers"] == ["Authorization"]
    assert [route["prices"] for route in state["routes"]] == [["0.01 USD"], ["0.01 USD"], ["0 USD"]]
    assert (state["mode"], state["ledger"], state["problems"]) == ("enforce", "SQLite", [])
    assert SECRET not in json.dumps(state)
    assert str(gateway.file.parent) not in json.dumps(state)


def test_attenuating_for_those_who_cannot(gateway: Gateway, api: Api) -> None:
    root = minted(api)["token"]
    status, child = api.post("/attenuate", token=root, label="child", budget="1 USD", scope="/api/v1/search")
    assert status == 200
    assert [link.label for link in inspect(child["token"]).links] == ["team", "child"]
    assert gateway.ask("GET", "/api/v1/search", token=child["token"]).status == 200
    assert api.post("/attenuate", token=root, label="child", budget="11 USD")[1]["code"] == "caveat_wider"
    assert api.post("/attenuate", token="tolsey_!", label="child")[1]["code"] == "request_invalid"


# --- who gets nothing

PATHS = {
    **dict.fromkeys(("trail", "holds", "approvals", "revoked", "report", "keys", "config"), "GET"),
    **dict.fromkeys(
        ("mint", "attenuate", "keys/rotate", "keys/abc/drop", "holds/abc/void", "holds/abc/refund"), "POST"
    ),
    **dict.fromkeys(("revoke", f"revoked/{UNKNOWN}/unrevoke"), "POST"),
    **dict.fromkeys((f"approvals/{UNKNOWN[:24]}/approve", f"approvals/{UNKNOWN[:24]}/deny"), "POST"),
    f"accounts/{UNKNOWN}/grant": "POST",
}


def test_every_action_is_asked_for_by_a_path(gateway: Gateway) -> None:
    """And only the one: a token for that action alone gets in, one for all others does not."""
    labelled = {"token": "x", "label": "x"}
    bodies: dict[str, dict[str, str]] = {"mint": labelled, "attenuate": labelled, "keys/rotate": {"kind": "none"}}
    asked = set()
    for path, method in PATHS.items():
        body = bodies.get(path, {"reason": "x", "amount": "x"} if path.endswith("grant") else {"reason": ""})
        action = path.rpartition("/")[2]
        asked.add(action)
        others = " ".join(name for name in ACTIONS if name != action)
        for caveat, refused in ((f"action = {action}", False), (f"action = {others}", True)):
            with api_of(gateway, caveat) as api:
                _, document = checked(api.http.request(method, f"/{path}", json=body if method == "POST" else None))
                assert (document.get("code") == "caveat_refused") == refused, (path, document)
    assert asked == set(ACTIONS)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_there_is_nothing(gateway: Gateway, path: str) -> None:
    team = gateway.token()
    for token, code in (("", "token_missing"), (team, "token_forged"), ("tolsey_x", "token_malformed")):
        with Api(gateway, token) as api:
            refused = api.refused(PATHS[path], f"/{path}", json={})
        assert (refused["status"], refused["code"]) == (401, code)
    with Api(gateway, child_of(team, "action = mint")) as api:
        assert api.refused(PATHS[path], f"/{path}", json={})["code"] == "token_forged"


def test_an_admin_token_opens_nothing_on_the_data_port(gateway: Gateway) -> None:
    token = admin_token(gateway)
    assert gateway.ask("GET", "/api/v1/search", token=token).status == 401
    assert gateway.ask("GET", "/api/v1/free", token=token).status == 401
    assert gateway.ask("GET", "/api/me", token=token).status == 404
    assert gateway.ask("GET", "/healthz", admin=True).status == 200


def test_a_token_is_taken_from_one_place_alone(gateway: Gateway) -> None:
    token = admin_token(gateway)
    at = f"http://127.0.0.1:{gateway.admin_port}/api/me"
    bearer = ("Authorization", f"Bearer {token}")
    assert checked(httpx.get(at, headers=[bearer]))[0] == 200
    assert checked(httpx.get(at, headers=[bearer, bearer]))[1]["code"] == "credentials_ambiguous"
    for headers, query in (
        ({"X-Api-Key": token}, {}),
        ({"Cookie": f"token={token}"}, {}),
        ({"Authorization": f"Basic {token}"}, {}),
        ({"Authorization": "Bearer"}, {}),
        ({}, {"token": token, "access_token": token}),
    ):
        assert checked(httpx.get(at, headers=headers, params=query))[1]["code"] == "token_missing"


def test_an_expired_or_distant_admin_is_refused(gateway: Gateway) -> None:
    for caveat, code in (
        ("expires = 2020-01-01", "token_expired"),
        ("peer = 192.0.2.0/24", "caveat_refused"),
        ("scope = /*", "caveat_unknown"),
        ("budget = 1 USD", "caveat_unknown"),
        ("acton = mint", "caveat_unknown"),
    ):
        with api_of(gateway, caveat) as api:
            assert api.refused("GET", "/me")["code"] == code


# --- what it costs


def test_no_worker_imports_what_only_the_api_needs() -> None:
    seen = "import sys, tolsey.cli.worker, tolsey.cli.serve; print({'fastapi', 'starlette'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, check=True).stdout == b"set()\n"
