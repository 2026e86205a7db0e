"""Logging in to the dashboard with a provider: a real one, a browser's part by hand, and what may go wrong."""

import re
import time
from base64 import b64encode
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.admins import CONFIG as OF_BOTH
from tests.gateways import Gateway, serving
from tests.issuer import Issuer
from tests.upstreams import Upstream
from tolsey.admin import signing_in

CONFIG = (
    OF_BOTH
    + """
[[oidc]]
name = "corp"
issuer = "<issuer>"
audience = "tolsey"
login = "<login>"
secret = "${OIDC_SECRET}"
[[oidc]]
name = "plain"
issuer = "<other>"
audience = "tolsey"
[[mint_policy]]
name = "research"
provider = "corp"
claims = { groups = "research" }
budget = "10 USD/day"
scope = "/api/v1/*"
lifetime = "24h"
actions = ["mint", "trail"]
"""
)
SECRET = "client-secret-of-the-tests"
ALICE: dict[str, Any] = {"groups": ["research"]}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(issuer: Issuer, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OIDC_SECRET", SECRET)
        folder = tmp_path_factory.mktemp("gateway")
        # The provider sends browsers to that address; what is tried here goes to the gateway's own.
        values = {"issuer": issuer.url, "other": f"{issuer.url}/other", "login": "https://tolsey.example"}
        with serving(folder, CONFIG, port=upstream.port, **values) as running:
            yield running


class Browser:
    """A browser that is sent to the provider and back."""

    def __init__(self, gateway: Gateway) -> None:
        self.base = f"http://127.0.0.1:{gateway.admin_port}"
        self.http = httpx.Client(base_url=self.base, timeout=20)

    def begin(self, path: str = "/login/corp?to=/tree") -> str:
        """Where it is sent to."""
        answer = self.http.get(path)
        assert answer.status_code == 303, answer.text
        assert "samesite=lax" in answer.headers["set-cookie"].lower()
        assert "httponly" in answer.headers["set-cookie"].lower()
        return answer.headers["location"]

    def back(self, url: str) -> httpx.Response:
        """Where it is sent back to, on this gateway."""
        assert url.startswith("https://tolsey.example/login/corp/done?")
        return self.http.get(url.removeprefix("https://tolsey.example"))

    def close(self) -> None:
        self.http.close()


@pytest.fixture
def browser(gateway: Gateway) -> Iterator[Browser]:
    found = Browser(gateway)
    yield found
    found.close()


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 401, answer.text
    assert "tolsey_session" not in answer.headers.get("set-cookie", "")
    (found,) = re.findall(r'role="alert">([^<]*)<', answer.text)
    return unescape(found)


def test_alice_logs_in_and_sees_what_her_policy_allows(browser: Browser, issuer: Issuer, gateway: Gateway) -> None:
    page = browser.http.get("/login?to=/tree").text
    assert 'href="/login/corp?to=/tree"' in page
    assert "plain" not in page, "it has no login"
    answer = browser.back(issuer.authorize(browser.begin(), **ALICE))
    assert answer.status_code == 200
    assert 'content="0; url=/tree"' in answer.text
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert browser.http.get("/tree").status_code == 200
    assert browser.http.get("/holds").status_code == 403, "her policy does not name it"
    assert issuer.forms[-1]["shown"] == f"Basic {b64encode(f'tolsey:{SECRET}'.encode()).decode()}"
    code = issuer.forms[-1]["code"]
    written = gateway.said() + gateway.out.read_text()
    assert [word for word in (SECRET, code, issuer.forms[-1]["code_verifier"]) if word in written] == []


def test_who_has_no_policy_gets_nothing(browser: Browser, issuer: Issuer) -> None:
    assert "no mint policy is for this identity" in said(browser.back(issuer.authorize(browser.begin(), groups=["x"])))
    assert browser.http.get("/tree").headers["location"].startswith("/login")


def test_an_answer_counts_once_and_in_the_browser_that_asked(
    browser: Browser, issuer: Issuer, gateway: Gateway
) -> None:
    begun = "not begun in this browser, or is over already"
    url = issuer.authorize(browser.begin(), **ALICE)
    other = Browser(gateway)
    assert begun in said(other.back(url))
    assert begun in said(browser.back(url)), "what was tried elsewhere is over"
    other.close()
    url = issuer.authorize(browser.begin(), **ALICE)
    assert browser.back(url).status_code == 200
    assert begun in said(browser.back(url))
    for wrong in ("state=x&code=y", "code=y", "", "state=%ff"):
        assert begun in said(browser.http.get(f"/login/corp/done?{wrong}"))


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"nonce": "another"}, "not of this log-in"),
        ({"nonce": None}, "not of this log-in"),
        ({"aud": "somebody-else"}, "claim aud"),
        ({"aud": ["tolsey", "another"]}, "another client"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"iss": "https://evil.example"}, "not known here"),
    ],
)
def test_a_token_that_is_not_for_this_log_in(
    browser: Browser, issuer: Issuer, claims: dict[str, Any], detail: str
) -> None:
    assert detail in said(browser.back(issuer.authorize(browser.begin(), **{**ALICE, **claims})))


def test_what_a_provider_may_answer(browser: Browser, issuer: Issuer) -> None:
    state = parse_qs(urlsplit(browser.begin()).query)["state"][0]
    answer = browser.http.get(f"/login/corp/done?state={state}&error=access_denied")
    assert said(answer) == "the provider corp says: access_denied"
    url = issuer.authorize(browser.begin(), **ALICE)
    assert "another provider" in said(browser.back(url.partition("&iss=")[0] + "&iss=https://evil.example"))
    for body in (b"{}", b'{"id_token": 5}', b"[", b'{"id_token": "x.y.z"}'):
        issuer.answers["/token"] = (200, body)
        said(browser.back(issuer.authorize(browser.begin(), **ALICE)))
    issuer.answers.clear()
    assert "'nobody'" in said(browser.http.get("/login/nobody"))
    assert "'plain'" in said(browser.http.get("/login/plain"))
    for onward in (
        *("//evil.example", "https://evil.example", "/\\evil.example"),
        *("/%09evil.example", "/%0aevil.example", "/%E2%80%AEevil.example", "/%20/evil.example"),
    ):
        answer = browser.back(issuer.authorize(browser.begin(f"/login/corp?to={onward}"), **ALICE))
        assert 'content="0; url=/overview"' in answer.text


@pytest.mark.slow
def test_a_provider_that_hangs_is_given_up(browser: Browser, issuer: Issuer) -> None:
    issuer.answers["/token"] = issuer.hang
    assert "no identity token" in said(browser.back(issuer.authorize(browser.begin(), **ALICE)))
    issuer.answers.clear()
    issuer.released.set()


def test_only_so_many_are_under_way(browser: Browser, issuer: Issuer) -> None:
    first = issuer.authorize(browser.begin(), **ALICE)
    for _ in range(signing_in.MAX_BEGUN):
        browser.begin()
    assert "over already" in said(browser.back(first))
