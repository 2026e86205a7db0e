"""Answering questions about calls over the admin API and on the dashboard."""

import json
from collections.abc import Iterator

import pytest

from tests.admins import CONFIG, Api, admin_token, api_of, notes
from tests.cli import answer
from tests.gateways import Gateway, serving, until
from tests.test_dashboard import Browser, text_of
from tests.upstreams import Upstream
from tolsey import attenuate


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("gateway"), CONFIG, port=upstream.port) as running:
        yield running


@pytest.fixture
def api(gateway: Gateway) -> Iterator[Api]:
    with api_of(gateway) as found:
        yield found


@pytest.fixture
def asking(gateway: Gateway) -> str:
    approver = answer("approver", f"http://127.0.0.1:{gateway.port}", "-c", str(gateway.file))["approver"]
    return attenuate(gateway.token(), label="buyer", approval="always", approver=approver)


def ask(gateway: Gateway, token: str, purpose: str = "") -> str:
    body = {"method": "GET", "path": "/api/v1/search", "price": "0.01 USD", "purpose": purpose}
    found = json.loads(gateway.ask("POST", "/.tolsey/approvals", token=token, body=json.dumps(body).encode()).body)
    return str(found["approval"])


def polled(gateway: Gateway, token: str, question: str) -> int:
    return gateway.ask("GET", f"/.tolsey/approvals/{question}", token=token).status


def test_over_the_api(gateway: Gateway, api: Api, asking: str) -> None:
    first, second = ask(gateway, asking, "why not"), ask(gateway, asking)
    listed = {each["id"]: each for each in api.get("/approvals")["approvals"]}
    assert (listed[first]["labels"], listed[first]["purpose"], listed[first]["state"]) == (
        "team/buyer",
        "why not",
        "open",
    )
    status, said = api.post(f"/approvals/{first}/approve", reason="it is due")
    assert (status, said["granted"], said["reason"]) == (200, True, "it is due")
    assert api.post(f"/approvals/{second}/deny", reason="too dear")[0] == 200
    assert (polled(gateway, asking, first), polled(gateway, asking, second)) == (200, 403)
    assert notes(gateway, "approve")[-1].startswith(f"approved by {api.get('/me')['who']}: it is due: team/buyer: GET")
    status, refused = api.post(f"/approvals/{first}/deny", reason="after all")
    assert (status, refused["code"]) == (404, "question_unknown")
    assert api.post(f"/approvals/{'0' * 24}/approve", reason="which")[1]["code"] == "question_unknown"
    assert api.post(f"/approvals/{second}/deny", granted="yes", reason="x")[1]["code"] == "request_invalid"


def test_a_token_that_may_only_look(gateway: Gateway, asking: str) -> None:
    question = ask(gateway, asking)
    with api_of(gateway, "action = approvals") as looker:
        assert question in [each["id"] for each in looker.get("/approvals")["approvals"]]
        assert looker.post(f"/approvals/{question}/approve", reason="x")[1]["code"] == "caveat_refused"


def test_on_the_dashboard(gateway: Gateway, asking: str) -> None:
    question = ask(gateway, asking, "<b>now</b>\u202e")
    with Browser(gateway) as browser:
        browser.log_in(admin_token(gateway))
        page = browser.page("/approvals")
        assert "team/buyer" in text_of(page)
        assert "<b>now</b>" not in page
        assert "\u202e" not in page
        answered = browser.send(f"/approvals/{question}/approve", reason="seen")
        assert "Approved GET /api/v1/search" in text_of(answered.text)
        assert question not in browser.page("/approvals")
    until(lambda: polled(gateway, asking, question) == 200, "the discharge is given")
