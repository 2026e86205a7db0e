"""Revoking over the admin API and on the dashboard: tokens, admin tokens, and people who mint by policy."""

from collections.abc import Iterator

import pytest

from tests.admins import Api, admin_token, api_of, minted, notes
from tests.gateways import Gateway, child_of, serving, until
from tests.issuer import Issuer
from tests.test_admin_oidc import CONFIG as BY_POLICY
from tests.test_admin_oidc import RESEARCH
from tests.test_dashboard import Browser, text_of
from tests.upstreams import Upstream
from tolsey.token.macaroon import Macaroon

CONFIG = BY_POLICY
UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(issuer: Issuer, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with serving(folder, CONFIG, port=upstream.port, issuer=issuer.url, other="http://localhost:1") as running:
        yield running


@pytest.fixture
def api(gateway: Gateway) -> Iterator[Api]:
    """The API with all rights."""
    with api_of(gateway) as found:
        yield found


def calls(gateway: Gateway, token: str) -> int:
    return gateway.ask("GET", "/api/v1/search", token=token).status


def test_a_token_and_all_that_is_made_from_it(gateway: Gateway, api: Api) -> None:
    team = minted(api, label="leaky")
    child = child_of(team["token"], "label = child n", "budget = 1 USD")
    assert (calls(gateway, team["token"]), calls(gateway, child)) == (200, 200)
    status, revoked = api.post("/revoke", prefix_id=team["prefix_id"], reason="found in a log")
    assert (status, revoked["changed"], revoked["until"]) == (200, True, None)
    until(lambda: calls(gateway, child) == 403, "the child is refused", 3)
    assert calls(gateway, team["token"]) == 403
    assert calls(gateway, child_of(child, "label = later n")) == 403
    (listed,) = [each for each in api.get("/revoked")["revocations"] if each["prefix_id"] == team["prefix_id"]]
    assert listed["note"] == f"revoked by {api.get('/me')['who']}: found in a log"
    assert notes(gateway, "revoke")[-1] == listed["note"]
    assert api.post("/revoke", prefix_id=team["prefix_id"], reason="again")[1]["changed"] is False
    status, back = api.post(f"/revoked/{team['prefix_id']}/unrevoke", reason="the wrong one")
    assert (status, back["reason"]) == (200, "the wrong one")
    until(lambda: calls(gateway, child) == 200, "it is good again", 3)
    assert api.post(f"/revoked/{team['prefix_id']}/unrevoke", reason="x")[1]["code"] == "revocation_unknown"


def test_a_token_is_revoked_by_one_of_its_links(gateway: Gateway, api: Api) -> None:
    team = minted(api, label="team")["token"]
    one, two = (child_of(team, f"label = {name} n", "budget = 1 USD") for name in ("one", "two"))
    status, revoked = api.post("/revoke", token=child_of(one, "method = GET"), reason="x")
    assert (status, revoked["label"], revoked["link"]) == (200, "one", 2)
    until(lambda: calls(gateway, one) == 403, "its Link is refused", 3)
    assert calls(gateway, two) == 200
    assert api.post("/revoke", token=two, link=1, reason="x")[1]["label"] == "team"
    until(lambda: calls(gateway, two) == 403, "the team is refused", 3)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "request_invalid"),
        ({"prefix_id": UNKNOWN, "token": "x"}, "request_invalid"),
        ({"prefix_id": UNKNOWN, "link": 1}, "request_invalid"),
        ({"prefix_id": "x"}, "request_invalid"),
        ({"token": "tolsey_x"}, "request_invalid"),
        ({"token": Macaroon.mint(root_key=b"k", identifier=b"i").to_text()}, "request_invalid"),
    ],
)
def test_what_cannot_be_revoked(api: Api, body: dict[str, object], code: str) -> None:
    assert api.post("/revoke", **body, reason="x")[1]["code"] == code


def test_a_link_that_is_not_there(gateway: Gateway, api: Api) -> None:
    assert api.post("/revoke", token=gateway.token(), link=9, reason="x")[1]["code"] == "link_unknown"


def test_an_admin_and_those_he_let_in(gateway: Gateway, api: Api) -> None:
    token = admin_token(gateway, "label = ops n", "action = trail, config")
    with Api(gateway, child_of(token, "label = intern n")) as intern, Browser(gateway) as browser:
        assert intern.get("/trail")
        assert browser.log_in(token).status_code == 303
        assert browser.http.get("/tree").status_code == 200
        assert api.post("/revoke", token=token, reason="left")[1]["label"] == "ops"
        until(lambda: intern.http.get("/trail").status_code == 403, "the intern is refused", 3)
        assert intern.refused("GET", "/trail")["code"] == "token_revoked"
        assert browser.http.get("/tree").status_code == 303
        assert browser.log_in(token).status_code == 401
    assert api.get("/me")["label"] == "admin"


def test_a_person_who_mints_by_policy(gateway: Gateway, api: Api, issuer: Issuer) -> None:
    with (
        Api(gateway, issuer.token(**RESEARCH, sub="mallory")) as mallory,
        Api(gateway, issuer.token(**RESEARCH)) as alice,
    ):
        minted(mallory, label="mallory-x", budget="1 USD")
        (account,) = [row for row in api.get("/trail")["accounts"] if row["label"] == "corp mallory" and row["limit"]]
        assert api.post("/revoke", prefix_id=account["id"], reason="misuse")[0] == 200
        until(lambda: mallory.http.get("/me").status_code == 403, "mallory is refused", 3)
        minted(alice, label="alice-x", budget="1 USD")


def test_on_the_dashboard(gateway: Gateway) -> None:
    with Browser(gateway) as browser, api_of(gateway) as api:
        browser.log_in(admin_token(gateway))
        team = minted(api, label="shown")
        child = child_of(team["token"], "label = below n", "budget = 1 USD")
        assert calls(gateway, child) == 200
        page = browser.page(f"/accounts/{team['prefix_id']}/revoke")
        assert "the 1 below it that were seen" in text_of(page)
        answer = browser.http.post(f"/accounts/{team['prefix_id']}/revoke", data={"reason": "x"})
        assert answer.status_code == 403
        assert browser.send(f"/accounts/{team['prefix_id']}/revoke", reason="").status_code == 422
        assert calls(gateway, child) == 200
        answer = browser.send(f"/accounts/{team['prefix_id']}/revoke", reason="<i>seen</i>")
        assert f"Revoked {team['prefix_id']}" in text_of(answer.text)
        until(lambda: calls(gateway, child) == 403, "the child is refused", 3)
        assert "&lt;i&gt;seen&lt;/i&gt;" in browser.page("/revoked")
        assert browser.send(f"/revoked/{team['prefix_id']}/unrevoke", reason="x").status_code == 200
        until(lambda: calls(gateway, child) == 200, "it is good again", 3)
        assert browser.http.get(f"/accounts/{UNKNOWN}/revoke").status_code == 404
