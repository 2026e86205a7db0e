"""The dashboard over plain HTTP: who gets in, what each page shows to whom, and that no other site sends its forms."""

import os
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import httpx
import pytest

from tests.admins import CONFIG as OF_BOTH
from tests.admins import SECRET, admin_token, notes
from tests.cli import answer as command
from tests.gateways import Gateway, child_of, until
from tests.reading import trail
from tests.upstreams import Upstream
from tolsey.admin import sessions
from tolsey.admin.dashboard import COOKIE
from tolsey.admin.pages import MENU
from tolsey.admin.sessions import MAX_SESSIONS, Sessions
from tolsey.admin.views import PAGE
from tolsey.store.keyring import Keyring

CONFIG = OF_BOTH
HOSTILE = "<script>alert(1)</script>\u202egpj"


class Browser:
    """What a browser does with the dashboard, without scripts: cookies, and forms as they stand on the page."""

    def __init__(self, gateway: Gateway) -> None:
        self.base = f"http://127.0.0.1:{gateway.admin_port}"
        self.http = httpx.Client(base_url=self.base, timeout=20, headers={"Origin": self.base})

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def log_in(self, token: str) -> httpx.Response:
        return self.http.post("/login", data={"token": token})

    def page(self, path: str) -> str:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def form(self) -> str:
        """What a form of this session holds."""
        (found, *_) = re.findall(r'name="form" value="([^"]+)"', self.page("/config"))
        return str(found)

    def send(self, path: str, **fields: str) -> httpx.Response:
        return self.http.post(path, data={"form": self.form(), **fields})


@pytest.fixture
def browser(gateway: Gateway) -> Iterator[Browser]:
    """Somebody who is logged in and may do everything."""
    with Browser(gateway) as found:
        assert found.log_in(admin_token(gateway)).status_code == 303
        yield found


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page))


def test_one_gets_in_with_an_admin_token_alone(gateway: Gateway) -> None:
    with Browser(gateway) as browser:
        for path in ("/", "/overview", "/tree", "/mint"):
            answer = httpx.get(browser.base + path, follow_redirects=True)
            assert answer.url.path == "/login"
        team = gateway.token()
        for wrong in ("", "nonsense", team, child_of(admin_token(gateway), "expires = 2020-01-01")):
            refused = browser.log_in(wrong)
            assert refused.status_code == 401
            assert "set-cookie" not in refused.headers
            assert not wrong or wrong not in refused.text
        answer = browser.log_in(admin_token(gateway))
        assert (answer.status_code, answer.headers["location"]) == (303, "/overview")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert browser.http.get("/overview").status_code == 200
        assert browser.http.post("/logout", data={"form": browser.form()}).status_code == 303
        assert browser.http.get("/overview").status_code == 303
        assert httpx.get(f"{browser.base}/overview", cookies={COOKIE: "x"}).status_code == 303


def test_one_is_only_led_on_within_the_dashboard(gateway: Gateway) -> None:
    led = {"/tree": "/tree", "//evil.example": "/overview", "https://evil.example": "/overview", "/\\evil": "/overview"}
    led |= dict.fromkeys(("/\tevil.example", "/\nevil.example", "/\u202eevil.example"), "/overview")
    for to, onward in led.items():
        with Browser(gateway) as browser:
            answer = browser.http.post("/login", params={"to": to}, data={"token": admin_token(gateway)})
            assert answer.headers["location"] == onward


def test_every_page_has_the_headers_of_a_page(gateway: Gateway, browser: Browser) -> None:
    for path in ("/login", "/overview", "/tree", "/holds", "/report", "/mint", "/config", "/nothing"):
        headers = browser.http.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert headers["cache-control"] == "no-store"
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        page = browser.http.get(path).text
        assert not re.search(
            r"<script(?! src=\"/static/)|<style|\son\w+=|\sstyle=|(?:src|href|action)=.https?:", page
        ), path
    for asset, kind in (("htmx.js", "javascript"), ("style.css", "css"), ("icon.svg", "svg")):
        assert kind in browser.http.get(f"/static/{asset}").headers["content-type"]
    for outside in ("/static/../dashboard.py", "/static/%2e%2e/dashboard.py", "/static/..%2fapi.py", "/static/"):
        assert browser.http.get(outside).status_code in (303, 404), outside


def test_a_narrower_token_sees_what_it_may_see(gateway: Gateway) -> None:
    for action in ("report", "trail", "holds", "mint", "config"):
        with Browser(gateway) as browser:
            assert browser.log_in(admin_token(gateway, f"action = {action}")).status_code == 303
            for path, _, needed in MENU:
                answer = browser.http.get(path)
                assert answer.status_code == (200 if needed == action else 403), (action, path)
                if needed == action:
                    shown = set(re.findall(r'<a href="(/\w+)">', answer.text.partition("</nav>")[0]))
                    assert shown == {path for path, _, each in MENU if each == action}
    with Browser(gateway) as browser:
        browser.log_in(admin_token(gateway, "action = trail, config"))
        assert gateway.ask("GET", "/api/v1/search", token=gateway.token()).status == 200
        (root, *_) = trail(gateway.ledger)
        assert "Raise a limit" not in browser.page(f"/accounts/{root.id}")
        answer = browser.send(f"/accounts/{root.id}/grant", amount="1 USD", reason="x")
        assert answer.status_code == 403
        assert "the action 'grant' is not allowed" in text_of(answer.text)


def test_a_dropped_key_ends_the_session(gateway: Gateway, browser: Browser) -> None:
    keyring = Keyring.open(gateway.keys)
    old = keyring.key_ids("tolsey-admin")[-1]
    keyring.rotate("tolsey-admin")
    assert browser.http.get("/overview").status_code == 200
    keyring.drop(old)
    until(lambda: browser.http.get("/overview").status_code == 303, "the session is over")


def test_labels_are_text(gateway: Gateway, browser: Browser) -> None:
    token = gateway.mint(f"label = {HOSTILE} n", "budget = 1 USD")
    assert gateway.ask("GET", "/api/v1/search", token=token).status == 200
    (root,) = [row for row in trail(gateway.ledger) if row.label == HOSTILE]
    until(lambda: "alert" in browser.page("/report"), "the call is tallied")
    for path in ("/tree", f"/tree?q={HOSTILE}", f"/accounts/{root.id}", "/report"):
        page = browser.page(path)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egpj" in page, path
        assert "<script>" not in page
        assert "\u202e" not in page


def test_the_tree_opens_level_by_level(gateway: Gateway, browser: Browser) -> None:
    root = gateway.mint("label = wide n", "budget = 100 USD")
    children = [child_of(root, f"label = child-{number} n", "budget = 1 USD") for number in range(PAGE + 2)]
    for child in children:
        assert gateway.ask("GET", "/api/v1/search", token=child).status == 200
    grandchild = child_of(children[-1], "label = grandchild n", "budget = 0.02 USD")
    assert gateway.ask("GET", "/api/v1/search", token=grandchild).status == 200
    whole = re.compile(r">wide</bdi>.*?1\.03</b> spent, <b>98\.97</b> left of 100 USD; 103 calls", re.DOTALL)
    until(lambda: whole.search(browser.page("/tree")), "every call is settled")
    page = browser.page("/tree")
    assert f"{PAGE + 2} below" in page
    assert "child-0" not in page
    (wide,) = [row for row in trail(gateway.ledger) if row.label == "wide"]
    above = f"/tree/level?above={wide.id}%3AUSD"
    assert f'hx-get="{above}"' in page
    level = browser.page(above)
    assert [f"child-{n}</bdi>" in level for n in (0, PAGE - 1, PAGE)] == [True, True, False]
    (more,) = re.findall(r'hx-get="(/tree/level\?above=[^"]*offset=100)"', level)
    rest = browser.page(unescape(more))
    assert "child-101</bdi>" in rest
    assert "More" not in rest
    keys = re.findall(r'name="at" value="([^"]+)"', rest)
    figures = browser.http.get("/tree/figures", params={"at": [*keys, "nonsense:USD"]}).text
    assert figures.count('hx-swap-oob="true"') == len(keys) == 2
    assert "grandchild" in browser.page("/tree?q=GRAND")
    assert "Nothing is called so" in browser.page("/tree?q=nobody")


def test_a_chain_shows_its_calls_and_those_below(gateway: Gateway, browser: Browser) -> None:
    root = gateway.mint("label = seen n", "budget = 10 USD")
    child = child_of(root, "label = below n", "budget = 1 USD")
    hold = gateway.ask("GET", "/api/v1/search", token=child)["tolsey-hold"]
    gateway.stands(child, spent="0.01", calls=1)
    (top, below) = [row for row in trail(gateway.ledger) if row.label in ("seen", "below")]
    for row in (top, below):
        page = text_of(browser.page(f"/accounts/{row.id}"))
        assert hold in page
        assert "GET /api/v1/search" in page
    page = text_of(browser.page(f"/accounts/{below.id}"))
    assert "seen" in page
    assert "attenuated offline" in page
    assert browser.http.get(f"/accounts/{'0' * 32}").status_code == 404
    answer = browser.send(f"/holds/{hold}/refund", amount="0.004 USD", reason="half")
    assert f"Refunded 0.004 USD of hold {hold}" in text_of(answer.text)
    answer = browser.send(f"/accounts/{top.id}/grant", amount="5 USD", reason="a longer run")
    assert "Granted 5 USD; 14.994 USD are left." in text_of(answer.text)
    assert notes(gateway, "grant")[-1].endswith("): a longer run")
    wrong = [
        ({"amount": "5", "reason": "x"}, "is not an amount"),
        ({"amount": "5 USD", "reason": " "}, "reason: String"),
    ]
    for fields, said in wrong:
        answer = browser.send(f"/accounts/{top.id}/grant", **fields)
        assert answer.status_code == 422
        assert said in text_of(answer.text)


def test_a_chain_shows_what_it_refused(gateway: Gateway, browser: Browser) -> None:
    root = gateway.mint("label = dry n", "budget = 0.01 USD")
    assert [gateway.ask("GET", "/api/v1/search", token=root).status for _ in "12"] == [200, 402]
    (row,) = [row for row in trail(gateway.ledger) if row.label == "dry"]
    said = "Refused in the last 90 days: budget_exhausted 1."
    until(lambda: said in text_of(browser.page(f"/accounts/{row.id}")), "it is counted")
    assert "last seen 20" in text_of(browser.page(f"/accounts/{row.id}"))


def test_a_call_has_a_receipt(gateway: Gateway, browser: Browser, tmp_path: Path) -> None:
    root = gateway.mint(f"label = {HOSTILE} n", "budget = 10 USD")
    hold = gateway.ask("GET", "/api/v1/search", token=root)["tolsey-hold"]
    gateway.stands(root, spent="0.01", calls=1)
    row = [row for row in trail(gateway.ledger) if row.label == HOSTILE][-1]
    assert f'href="/receipts/{hold}"' in browser.page(f"/accounts/{row.id}")
    page = browser.page(f"/receipts/{hold}")
    assert HOSTILE not in page
    assert "<script>alert(1)</script>\\u202egpj" in text_of(page), "with what turns a line around written out"
    assert "Cost 0.01 USD" in " ".join(text_of(page).split())
    answer = browser.http.get(f"/receipts/{hold}/document")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"].startswith("attachment; ")
    file = tmp_path / "receipt.json"
    file.write_bytes(answer.content)
    key = command("audit", "key", "-c", os.fspath(gateway.file))["current"]
    assert answer.json()["key"] == key
    assert command("audit", "check", os.fspath(file), "--key", key)["hold"] == hold
    for path in ("/receipts/nothing", "/receipts/nothing/document"):
        answer = browser.http.get(path)
        assert (answer.status_code, "no hold nothing" in text_of(answer.text)) == (404, True)


def test_a_hold_is_voided(gateway: Gateway, browser: Browser, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/api/v1/talk", token=token)
        talk = upstream.hear()
        (hold,) = re.findall(r"/holds/([^/]+)/void", browser.page("/holds"))
        answer = browser.send(f"/holds/{hold}/void", reason="it hangs")
        assert "which was open: 0.01 USD returned" in text_of(answer.text)
        assert "Nothing is held." in browser.page("/holds")
        talk.answers()
        client.answer()


def test_a_token_is_minted(gateway: Gateway, browser: Browser) -> None:
    fields = {
        "label": "by hand",
        "budget": "2 USD",
        "scope": "/api/v1/*",
        "expires": "2090-01-01",
        "caveats": "method = GET\n\n rate = 9/second ",
    }
    page = browser.send("/mint", **fields, reason="asked for").text
    (token,) = re.findall(r">(tolsey_[^<]+)</textarea>", page)
    assert gateway.ask("GET", "/api/v1/search", token=token).status == 200
    assert all(text in text_of(page) for text in ("method = GET", "rate = 9/second", "budget = 2 USD"))
    assert notes(gateway, "open")[-1].endswith("): asked for")
    assert "tolsey_" not in browser.page("/mint")
    with Browser(gateway) as other:
        other.log_in(admin_token(gateway, "mint-budget = 1 USD"))
        answer = other.send("/mint", **fields)
        assert (answer.status_code, "the mint-budget has not that much left" in text_of(answer.text)) == (402, True)


def test_the_config_has_no_secret(browser: Browser) -> None:
    page = browser.page("/config")
    assert "Authorization" in page
    assert SECRET not in unescape(page)


# --- forms of others


def test_a_form_of_another_site_changes_nothing(gateway: Gateway, browser: Browser) -> None:
    (root, *_) = trail(gateway.ledger)
    fields = {"amount": "1 USD", "reason": "x"}
    at = f"/accounts/{root.id}/grant"
    before = len(notes(gateway, "grant"))
    form = browser.form()
    with Browser(gateway) as other:
        other.log_in(admin_token(gateway))
        strange = other.form()
    for sent in ({}, {"form": ""}, {"form": "x" * 43}, {"form": strange}, {"form": form[:-1]}):
        answer = browser.http.post(at, data={**fields, **sent})
        assert (answer.status_code, "this form is not of your session" in answer.text) == (403, True), sent
    for origin in ("https://evil.example", "null", browser.base.replace("127.0.0.1", "localhost"), f"{browser.base}0"):
        answer = browser.http.post(at, data={**fields, "form": form}, headers={"Origin": origin})
        assert answer.status_code == 400, origin
        assert browser.http.post("/login", data={"token": "x"}, headers={"Origin": origin}).status_code == 400
    assert browser.http.get(at).status_code in (404, 405)
    assert len(notes(gateway, "grant")) == before
    assert browser.http.post(at, data={**fields, "form": form}).status_code == 200
    assert len(notes(gateway, "grant")) == before + 1


def test_an_old_page_asks_to_log_in_again(gateway: Gateway) -> None:
    with Browser(gateway) as browser:
        answer = browser.http.get("/tree/figures", headers={"HX-Request": "true"})
        assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")
        assert browser.http.post("/mint", data={"label": "x"}).headers["location"] == "/login?to=/overview"


# --- sessions


def test_sessions_end() -> None:
    now = 0
    found = Sessions(lambda: now)
    cookie = found.open("token")
    session = found.find(cookie)
    assert session is not None
    assert session.token == "token"
    assert session.is_form(session.form)
    assert not session.is_form("é")
    for _ in range(30):
        now += sessions.IDLE_SECONDS * 10**9 - 1
        if now <= sessions.LONGEST_SECONDS * 10**9:
            assert found.find(cookie) is not None
    assert found.find(cookie) is None, "it lasts no longer, however busy it is"
    cookie = found.open("token")
    now += sessions.IDLE_SECONDS * 10**9
    assert found.find(cookie) is not None
    now += sessions.IDLE_SECONDS * 10**9 + 1
    assert found.find(cookie) is None
    first = found.open("token")
    last = [found.open("token") for _ in range(MAX_SESSIONS)][-1]
    assert (found.find(first), found.find(last) is None) == (None, False)
    found.close(last)
    assert found.find(last) is None
