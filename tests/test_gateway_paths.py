"""Request targets, raw: refused, or matched, priced and forwarded as the same bytes; never priced as one thing and
forwarded as another.
"""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.ends import Broken, Client, Message
from tests.gateways import Gateway, problem
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/cheap/special"
methods = ["*"]
upstream = "plain"
price = "0.5 USD"
[[route]]
path = "/cheap/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/dear/*"
methods = ["*"]
upstream = "plain"
price = "1 USD"
[[route]]
path = "/caf%C3%A9/*"
methods = ["*"]
upstream = "plain"
price = "0.25 USD"
"""


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token(budget="1000000 USD")


REFUSED = [
    "/cheap/..",
    "/cheap/../dear/x",
    "/cheap/x/../../dear/x",
    "/../cheap/x",
    "/cheap/.",
    "/cheap/./x",
    "/./cheap/x",
    "/cheap/%2e%2e/dear/x",
    "/cheap/%2E%2E/dear/x",
    "/cheap/.%2e/dear/x",
    "/cheap/%2e/x",
    "/cheap/..%2fdear/x",
    "/cheap%2Fx",
    "/cheap/x%2fy",
    "/cheap%5Cx",
    "/cheap/x%5c..%5cy",
    "/cheap/%252e%252e/x",
    "/cheap/%25",
    "/%63heap/x",
    "/cheap/%7Ex",
    "/cheap/%41",
    "/cheap/%00",
    "/cheap/%0a",
    "/cheap/%0D%0AX-Evil:1",
    "/cheap/%1f",
    "/cheap/%7f",
    "/cheap/%",
    "/cheap/%2",
    "/cheap/%zz",
    "/cheap/%u002e",
    "//cheap/x",
    "/cheap//x",
    "/cheap/x//",
    "//dear/x/../../cheap/x",
    "/cheap\\x",
    "/cheap\\..\\dear/x",
    "\\cheap/x",
    "cheap/x",
    "?/cheap/x",
    "*",
    "http:/cheap/x",
    "ftp://evil/cheap/x",
    "file:///cheap/x",
    "http://evil/cheap/../dear/x",
    "http://evil//cheap/x",
    "evil:80",
]


@pytest.mark.parametrize("target", REFUSED)
def test_a_target_that_is_not_canonical_is_refused(
    gateway: Gateway, upstream: Upstream, token: str, target: str
) -> None:
    with upstream.hears_nothing():
        answer = gateway.ask("GET", target, token=token)
    assert (answer.status, problem(answer)["code"]) in {(400, "path_invalid"), (400, "request_invalid")}


@pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)])
def test_a_byte_that_no_target_may_hold(gateway: Gateway, upstream: Upstream, token: str, byte: int) -> None:
    """Whatever a bare control character or a byte beyond ASCII makes of the request line, nothing gets through."""
    for target in (f"/cheap/a{chr(byte)}b", f"/cheap/a?b{chr(byte)}c"):
        with upstream.hears_nothing():
            assert gateway.ask("GET", target, token=token).status == 400


FORWARDED = [
    ("/cheap/x", "0.01"),
    ("/cheap/special", "0.5"),
    ("/cheap/special/", "0.01"),
    ("/cheap/Special", "0.01"),
    ("/cheap/special;x", "0.01"),
    ("/cheap/x/", "0.01"),
    ("/cheap/...", "0.01"),
    ("/cheap/..x", "0.01"),
    ("/cheap/x..", "0.01"),
    ("/cheap/a;b=c/d", "0.01"),
    ("/cheap/dear/x", "0.01"),
    ("/cheap/@:!$&'()*+,=~-._", "0.01"),
    ('/cheap/^|`"{}<>[]', "0.01"),
    ("/cheap/%20", "0.01"),
    ("/cheap/%3F%23%3B", "0.01"),
    ("/cheap/%e2%82%ac", "0.01"),
    ("/cheap/%E2%82%AC", "0.01"),
    ("/cheap/%ff%FE", "0.01"),
    ("/dear/x", "1"),
    ("/dear/cheap", "1"),
    ("/caf%C3%A9/x", "0.25"),
    ("/caf%c3%a9/x", "0.25"),
    ("/cheap/x?a=1&a=2&A=3", "0.01"),
    ("/cheap/x?a=%2F..%2f&b=%00&c=%zz", "0.01"),
    ("/cheap/x?", "0.01"),
    ("/cheap/x?=&&=1&b&;&c=d=e", "0.01"),
    ("/cheap/x?/../dear/x", "0.01"),
    ("/cheap/x?//evil\\..", "0.01"),
    ("/cheap/x??a=?", "0.01"),
    ("/cheap/x?it's+%22so%22&{}|^`<>\"[]", "0.01"),
    ("/cheap/x?url=http://evil/dear/x", "0.01"),
]


@pytest.mark.parametrize(("target", "price"), FORWARDED)
def test_a_target_goes_through_byte_for_byte(
    gateway: Gateway, upstream: Upstream, token: str, target: str, price: str
) -> None:
    answer = gateway.ask("GET", target, token=token)
    assert (answer.status, answer["tolsey-cost"]) == (200, f"{price} USD")
    # An empty query is none.
    assert upstream.last().target == target.removesuffix("?" if target.endswith("x?") else "\0")


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("http://evil.test/cheap/x?y", "/cheap/x?y"),
        ("HTTP://evil.test:80/cheap/x", "/cheap/x"),
        ("https://user:password@evil.test/cheap/x", "/cheap/x"),
        ("http:///cheap/x", "/cheap/x"),
        ("/cheap/x#/../dear/x", "/cheap/x"),
        ("/cheap/x#", "/cheap/x"),
        ("/cheap/x?a#b?c", "/cheap/x?a"),
        ("/cheap/x/#", "/cheap/x/"),
    ],
)
def test_what_a_target_has_before_and_after_path_and_query_decides_nothing(
    gateway: Gateway, upstream: Upstream, token: str, target: str, seen: str
) -> None:
    answer = gateway.ask("GET", target, token=token)
    assert (answer.status, answer["tolsey-cost"]) == (200, "0.01 USD")
    assert upstream.last().target == seen
    assert upstream.last()["host"] == f"127.0.0.1:{upstream.port}"


def test_an_authority_alone_has_no_path(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with upstream.hears_nothing():
        for target in ("http://evil.test", "http://evil.test?/cheap/x", "http://evil.test#/cheap/x"):
            assert gateway.ask("GET", target, token=token).status in (400, 404)


def test_a_scope_binds_the_target_that_is_forwarded(gateway: Gateway, upstream: Upstream) -> None:
    narrow = gateway.token("scope = /cheap/x?source=arxiv")
    for target, status in (
        ("/cheap/x?source=arxiv", 200),
        ("/cheap/x?source=%61rxiv&q=a", 200),
        ("/cheap/x?q=a&source=arxiv", 200),
        ("http://evil.test/cheap/x?source=arxiv#source=other", 200),
        ("/cheap/x?source=arxiv&source=other", 403),
        ("/cheap/x?source=arxiv&%73ource=other", 403),
        ("/cheap/x?source=arxiv&source[]=other", 403),
        ("/cheap/x?source=arxiv&SOURCE=other", 403),
        ("/cheap/x?source=arxiv;source=other", 403),
        ("/cheap/x?source=other#source=arxiv", 403),
        ("/cheap/x?source=arxiv%26source=other", 403),
        ("/cheap/x?source=", 403),
        ("/cheap/x?source", 403),
        ("/cheap/x", 403),
        ("/cheap/x/?source=arxiv", 403),
        ("/dear/x?source=arxiv", 403),
        ("/cheap/../cheap/x?source=arxiv", 400),
    ):
        assert gateway.ask("GET", target, token=narrow).status == status, target


# --- the property


def price_of(target: str) -> str | None:
    """What a target costs, by a model that knows nothing of the gateway's: decode, split, look."""
    segments = unquote_to_bytes(target.partition("?")[0]).split(b"/")[1:]
    match segments:
        case [b"cheap", b"special"]:
            return "0.5 USD"
        case [b"cheap", first, *_] if first:
            return "0.01 USD"
        case [b"dear", first, *_] if first:
            return "1 USD"
        case [b"caf\xc3\xa9", first, *_] if first:
            return "0.25 USD"
    return None


def reduced(target: str) -> str:
    """The origin form of a target, which ends at a space."""
    rest = target.lstrip(" ").partition(" ")[0].partition("#")[0]
    for scheme in ("http://", "https://"):
        if rest.lower().startswith(scheme):
            rest = rest[len(scheme) :]
            path, mark, query = rest.partition("?")
            rest = "/" + path.partition("/")[2] + mark + query
    path, _, query = rest.partition("?")
    return f"{path}?{query}" if query else path


class Line:
    """A connection that is opened anew when the gateway closed it."""

    def __init__(self, gateway: Gateway, token: str) -> None:
        self._gateway = gateway
        self._token = token
        self._client: Client | None = None

    def ask(self, target: str) -> Message:
        for _ in range(2):
            if self._client is None:
                self._client = self._gateway.client()
            try:
                self._client.ask("GET", target, token=self._token)
                answer = self._client.answer()
            except (Broken, ConnectionError):
                self.close()
                continue
            if answer.all("connection") == ["close"]:
                self.close()
            return answer
        raise AssertionError(f"no answer to {target!r}")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


@pytest.fixture(scope="module")
def line(gateway: Gateway, token: str) -> Iterator[Line]:
    found = Line(gateway, token)
    yield found
    found.close()


# fmt: off
PIECES = [
    "/", "/", "/", "/", "cheap", "cheap", "dear", "special", "caf%C3%A9", "x", "..", ".", "%2e", "%2E.", "%2f", "%5c",
    "\\", "//", ";", ":", "@", "?", "&", "=", "#", "%", "%zz", "%00", "%c3%a9", "+", "%63heap", "CHEAP", "*", "'",
    '"', "{", "}", "~", "http://evil", "http://", "evil", "/cheap/", "/dear/", "/cheap/special", "?a=b&a=c", "^", "|",
    "[", "<", "!",
]
# fmt: on
TARGETS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "/cheap/" + "".join(pieces)),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), min_size=1, max_size=12).map("/dear/".__add__),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(TARGETS)
@example("/cheap/special?")
@example("/cheap/special#x")
@example("http://evil/dear/x?/cheap/x")
@example("/dear/x y")
@example("/dear/ HTTP/1.1 ")
def test_what_is_served_is_what_was_priced(line: Line, upstream: Upstream, target: str) -> None:
    before = len(upstream.heard)

    answer = line.ask(target)

    heard = [message.target for message in upstream.heard[before:]]
    if answer.status == 200:
        assert heard == [reduced(target)]
        assert answer["tolsey-cost"] == price_of(heard[0])
    else:
        assert heard == []
        assert answer.status in (400, 404)
        if answer.status == 404:
            assert price_of(reduced(target)) is None
