"""The dashboard in headless Chromium: what a person does with it, with a mouse, with keys alone, and on a telephone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.admins import admin_token
from tests.gateways import Gateway, child_of, serving, until
from tests.issuer import Issuer
from tests.upstreams import Upstream

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium"),
]

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
[[route]]
path = "/api/v1/fresh"
methods = ["GET"]
upstream = "search"
price = "0.03 USD"
[[route]]
path = "/api/v1/talk"
methods = ["GET"]
upstream = "search"
price = "0.5 USD"
"""


WITH_PROVIDER = """
[[oidc]]
name = "corp"
issuer = "<issuer>"
audience = "tolsey"
login = "<here>"
[[mint_policy]]
name = "research"
provider = "corp"
claims = { groups = "research" }
budget = "1 USD"
scope = "/api/*"
lifetime = "1h"
actions = ["trail"]
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container does not give; it sees our own pages only.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, gateway: Gateway) -> Iterator[Page]:
    """A page of somebody who is logged in. Nothing that the browser complains of may be left at the end."""
    context = chromium.new_context(base_url=f"http://127.0.0.1:{gateway.admin_port}")
    found = context.new_page()
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    log_in(found, gateway)
    yield found
    assert complaints == []
    context.close()


def log_in(page: Page, gateway: Gateway) -> None:
    page.goto("/")
    page.get_by_label("Admin token").fill(admin_token(gateway))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_mint_spend_and_watch_the_bar_move(gateway: Gateway, page: Page, upstream: Upstream) -> None:
    page.get_by_role("link", name="Mint").click()
    page.get_by_label("Label").fill("watched")
    page.get_by_label("Budget").fill("2 USD")
    page.get_by_role("button", name="Mint").click()
    token = page.get_by_label("Token", exact=True).input_value()
    page.get_by_role("link", name="Tree").click()
    row = page.locator("li", has_text="watched")
    expect(row).to_contain_text("0 spent, 2 left of 2 USD; 0 calls")
    with gateway.client() as client:
        client.ask("GET", "/api/v1/talk", token=token)
        talk = upstream.hear()
        expect(row).to_contain_text("0 spent, 0.5 held, 1.5 left of 2 USD; 0 calls")
        expect(row.locator("rect.held")).to_have_attribute("width", "25.0")
        page.get_by_role("link", name="Holds").click()
        expect(page.locator("tbody tr")).to_contain_text(["GET /api/v1/talk"])
        page.get_by_role("link", name="Tree").click()
        talk.answers()
        assert client.answer().status == 200
    expect(row).to_contain_text("0.5 spent, 1.5 left of 2 USD; 1 call")
    expect(row.locator("rect.spent")).to_have_attribute("width", "25.0")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("watched")
    page.locator("summary", has_text="Refund").click()
    page.get_by_label("Reason").locator("visible=true").fill("the answer was wrong")
    page.get_by_role("button", name="Refund").click()
    expect(page.get_by_role("status")).to_contain_text("Refunded 0.5 USD")


def test_revoke_and_see_the_next_call_refused(gateway: Gateway, page: Page) -> None:
    root = gateway.mint("label = leaky n", "budget = 10 USD")
    child = child_of(root, "label = below n", "budget = 1 USD")
    assert gateway.ask("GET", "/api/v1/search", token=child).status == 200
    page.goto("/tree?q=leaky")
    page.get_by_role("link", name="leaky").click()
    page.get_by_role("link", name="Revoke …").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Revoke leaky?")
    expect(page.get_by_role("main")).to_contain_text("the 1 below it that were seen")
    page.get_by_label("Reason").fill("found in a log")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status")).to_contain_text("every token that holds it is refused")
    until(lambda: gateway.ask("GET", "/api/v1/search", token=child).status == 403, "the child is refused", 3)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Revoked").click()
    expect(page.get_by_role("main")).to_contain_text("found in a log")


def test_keys_alone_open_the_tree(gateway: Gateway, page: Page) -> None:
    root = gateway.mint("label = keyed n", "budget = 10 USD")
    child = child_of(root, "label = deeper n", "budget = 1 USD")
    assert gateway.ask("GET", "/api/v1/search", token=child).status == 200
    page.goto("/tree?q=")
    summary = page.locator("summary", has_text="keyed")
    expect(page.get_by_text("deeper")).to_have_count(0)
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="deeper")).to_be_visible()
    expect(page.locator("li", has_text="deeper").last).to_contain_text("0.01 spent, 0.99 left of 1 USD; 1 call")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="deeper")).to_be_hidden()
    page.goto("/overview")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_logging_in_with_a_provider(chromium: Browser, tmp_path: Path, upstream: Upstream) -> None:
    """From the log-in page to the provider and back, with the cookies as a browser has them."""
    issuer = Issuer()
    issuer.person = {"groups": ["research"]}
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        text = gateway.file.read_text()
        here = f"http://127.0.0.1:{gateway.admin_port}"
        gateway.reload(text + WITH_PROVIDER.replace("<issuer>", issuer.url).replace("<here>", here))
        context = chromium.new_context(base_url=here)
        page = context.new_page()
        page.goto("/tree")
        page.get_by_role("link", name="Log in with corp").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Delegation tree")
        assert issuer.forms[-1]["grant_type"] == "authorization_code"
        page.get_by_role("button", name="Log out").click()
        page.goto("/tree")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        context.close()
    issuer.close()


def test_the_overview_keeps_itself_up_to_date(gateway: Gateway, page: Page) -> None:
    expect(page.locator("main")).not_to_contain_text("/api/v1/fresh")
    assert gateway.ask("GET", "/api/v1/fresh", token=gateway.token()).status == 200
    expect(page.locator("tr", has_text="/api/v1/fresh")).to_contain_text("0.03 USD", timeout=20_000)
    expect(page.locator("svg.plot rect")).not_to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(gateway: Gateway, chromium: Browser, scheme: str) -> None:
    gateway.mint(f"label = {'long' * 30} n", "budget = 10 USD")
    context = chromium.new_context(
        base_url=f"http://127.0.0.1:{gateway.admin_port}",
        viewport={"width": 360, "height": 640},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    log_in(page, gateway)
    for path in ("/overview", "/tree", "/holds", "/report", "/mint", "/config"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    light = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))))
    assert (light > 600) == (scheme == "light")
    context.close()
