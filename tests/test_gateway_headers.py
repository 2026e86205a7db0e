"""Headers, both ways: what the upstream must never see, what is set for it, and what the client gets back."""

import base64
import gzip

import pytest

from tests.ends import Message
from tests.gateways import Gateway, until
from tests.upstreams import OK, Upstream

CONFIG = """
[server]
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "keyed"
url = "http://127.0.0.1:<port>/v2"
headers = { Authorization = "Bearer sk-upstream", X-Tenant = "tolsey", x_under = "kept" }
[[route]]
path = "/priced/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/free/*"
methods = ["*"]
upstream = "plain"
price = "0 USD"
[[route]]
path = "/open/*"
methods = ["*"]
upstream = "plain"
mode = "public"
[[route]]
path = "/keyed/*"
methods = ["*"]
upstream = "keyed"
price = "0.01 USD"
[[route]]
path = "/open-keyed/*"
methods = ["*"]
upstream = "keyed"
mode = "public"
"""


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token(budget="1000 USD")


def up(gateway: Gateway, upstream: Upstream, token: str | None, *headers: str, target: str = "/priced/x") -> Message:
    """What the upstream sees of a request."""
    answer = gateway.ask("GET", target, *headers, token=token)
    assert answer.status == 200, answer
    return upstream.last()


def down(gateway: Gateway, upstream: Upstream, token: str, *headers: str, target: str = "/priced/x") -> Message:
    """What the client sees of an answer."""
    prefix = "/v2" if target.startswith("/keyed") else ""
    lines = ["HTTP/1.1 200 OK", *headers, "Content-Length: 2", "", "{}"]
    upstream.answers[prefix + target] = "\r\n".join(lines).encode("latin-1")
    answer = gateway.ask("GET", target, token=token)
    assert (answer.status, answer.body) == (200, b"{}")
    return answer


# --- credentials


@pytest.mark.parametrize("target", ["/priced/x", "/free/x", "/open/x", "/keyed/x", "/open-keyed/x"])
def test_a_token_never_reaches_the_upstream(gateway: Gateway, upstream: Upstream, token: str, target: str) -> None:
    plain = token.removeprefix("tolsey_")
    raw = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    standard = base64.b64encode(raw).decode()
    requests: list[tuple[str, ...]] = [
        (f"Authorization: Bearer {token}",),
        (f"Authorization: bearer {plain}",),
        (f"AUTHORIZATION: Bearer   {standard}",),
        (f"X-Api-Key: {token}",),
        (f"X-API-KEY: {standard}",),
    ]
    if target.startswith("/open"):
        requests += [
            (f"Authorization: L402 {plain}:{'0' * 64}",),
            (f"Authorization: LSAT {standard}:{'0' * 64}",),
            (f"Authorization: {token}",),
            (f"Authorization: Bearer {token},{token}",),
            (f"Authorization: Bearer {token}", f"X-Api-Key: {token}", f"X-Api-Key: {plain}"),
        ]
    for headers in requests:
        seen = up(gateway, upstream, None, *headers, target=target)
        for text in (token, plain, standard, plain[:40], standard[:40]):
            assert text.encode() not in seen.head, headers
        assert seen.all("authorization") == (["Bearer sk-upstream"] if "keyed" in target else [])
        assert "x-api-key" not in seen


def test_a_credential_that_is_not_ours_is_the_upstreams_on_a_public_route(gateway: Gateway, upstream: Upstream) -> None:
    headers = ("Authorization: Basic dXNlcjpwYXNz", "X-Api-Key: sk-theirs")
    seen = up(gateway, upstream, None, *headers, target="/open/x")
    assert (seen["authorization"], seen["x-api-key"]) == ("Basic dXNlcjpwYXNz", "sk-theirs")
    seen = up(gateway, upstream, None, *headers, target="/open-keyed/x")
    assert (seen.all("authorization"), seen["x-api-key"]) == (["Bearer sk-upstream"], "sk-theirs")


# --- on the way up


def test_configured_headers_are_set_and_replace_the_clients(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(gateway, upstream, token, "x-tenant: mine", "X-TENANT: also mine", target="/keyed/x")
    assert seen.all("x-tenant") == ["tolsey"]
    assert seen.all("authorization") == ["Bearer sk-upstream"]
    assert seen.all("x_under") == ["kept"]


def test_a_connection_header_cannot_take_a_configured_one_away(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    named = "Connection: keep-alive, x-tenant, authorization, x-forwarded-for, content-length, host"
    with gateway.client() as client:
        client.ask("POST", "/keyed/x", named, token=token, body=b"body")
        assert client.answer().status == 200
    seen = upstream.last()
    assert (seen["x-tenant"], seen["authorization"]) == ("tolsey", "Bearer sk-upstream")
    assert (seen["x-forwarded-for"], seen["content-length"], seen.body) == ("127.0.0.1", "4", b"body")


def test_hop_by_hop_headers_end_here(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask(
            "GET",
            "/priced/x",
            "Connection: keep-alive, X-Hop",
            "Connection: x-other-hop",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eDp4",
            "TE: trailers",
            "Trailer: X-After",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
            "X-Hop: 1",
            "X-Other-Hop: 1",
            "X-End: 1",
            token=token,
        )
        assert client.answer().status == 200
    seen = upstream.last()
    gone = "connection keep-alive proxy-connection proxy-authorization te trailer http2-settings x-hop x-other-hop"
    assert [name for name in gone.split() if name in seen] == []
    assert seen["x-end"] == "1"


def test_headers_that_would_price_one_thing_and_serve_another(gateway: Gateway, upstream: Upstream, token: str) -> None:
    names = [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Envoy-Original-Path",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X-Forwarded-Path",
        "X_Original_Url",
        "Content_Length",
        "X_Forwarded_For",
    ]
    seen = up(gateway, upstream, token, *(f"{name}: /admin" for name in names))
    assert [name for name in names if name.lower() in seen] == []


def test_forwarding_headers_are_rewritten(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(
        gateway,
        upstream,
        token,
        "Forwarded: for=1.2.3.4",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-For: 5.6.7.8",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Port: 1",
    )
    assert "forwarded" not in seen
    assert "x-forwarded-port" not in seen
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert seen["x-forwarded-host"] == "gateway.test"


def test_forwarded_addresses_count_only_from_trusted_proxies(gateway: Gateway, upstream: Upstream, token: str) -> None:
    here = gateway.token("peer = 127.0.0.1")
    there = gateway.token("peer = 203.0.113.0/24")
    forwarded = "X-Forwarded-For: 127.0.0.9, 198.51.100.1, 203.0.113.9"
    assert gateway.ask("GET", "/priced/x", forwarded, token=there).status == 403
    assert gateway.ask("GET", "/priced/x", forwarded, token=here).status == 200
    before = gateway.file.read_text()
    try:
        gateway.reload(before.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1", "198.51.100.0/24"]'))
        until(lambda: gateway.ask("GET", "/priced/x", forwarded, token=there).status == 200, "the worker reloaded")

        assert gateway.ask("GET", "/priced/x", forwarded, token=here).status == 403
        assert up(gateway, upstream, there, forwarded)["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
        through = "X-Forwarded-For: 203.0.113.9, 198.51.100.7"
        assert up(gateway, upstream, there, through)["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
        for nonsense in ("x", "", "203.0.113.9, x", "203.0.113.9:80", "203.0.113.9, 203.0.113.9 "):
            status = gateway.ask("GET", "/priced/x", f"X-Forwarded-For: {nonsense}", token=there).status
            assert status == (200 if nonsense.endswith("9 ") else 403), nonsense
    finally:
        gateway.reload(before)
    until(lambda: gateway.ask("GET", "/priced/x", forwarded, token=here).status == 200, "the worker reloaded")


def test_what_the_client_says_of_tolsey_is_dropped(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(gateway, upstream, token, "Tolsey-Cost: 0 USD", "tolsey-peer: 10.0.0.1", "X-Tolsey: kept")
    assert [name for name, _ in seen.headers if name.startswith("tolsey")] == []
    assert seen["x-tolsey"] == "kept"


def test_the_upstream_gets_a_host_of_its_own(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(gateway, upstream, token)
    assert seen["host"] == f"127.0.0.1:{upstream.port}"


def test_other_headers_go_through_as_they_are(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(
        gateway,
        upstream,
        token,
        "Accept: text/html;q=0.5",
        "Accept-Encoding: br",
        "User-Agent: curl/8",
        "Cookie: a=1; b=2",
        'If-None-Match: W/"x"',
        "Range: bytes=0-1",
        "Via: 1.1 before",
        "X-Twice: 1",
        "X-Twice: 2",
        "X-Empty:",
        "X-Utf8: caf\xc3\xa9 \xe6\x97\xa5",
        "X-Latin: caf\xe9",
    )
    assert (seen["accept"], seen["accept-encoding"], seen["user-agent"]) == ("text/html;q=0.5", "br", "curl/8")
    assert (seen["cookie"], seen["if-none-match"], seen["range"]) == ("a=1; b=2", 'W/"x"', "bytes=0-1")
    assert (seen.all("x-twice"), seen["x-empty"], seen["via"]) == (["1", "2"], "", "1.1 before")
    assert (seen["x-utf8"], seen["x-latin"]) == ("caf\xc3\xa9 \xe6\x97\xa5", "caf\xe9")


def test_nothing_else_is_invented(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = up(gateway, upstream, token)
    assert {name for name, _ in seen.headers} == {"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}


# --- on the way down


def test_hop_by_hop_headers_of_the_upstream_end_here(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = down(
        gateway,
        upstream,
        token,
        "Connection: keep-alive, X-Hop",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Proxy-Connection: keep-alive",
        "Trailer: X-After",
        "X-Hop: 1",
        "X-End: 1",
    )
    assert [n for n in ("keep-alive", "proxy-authenticate", "proxy-connection", "trailer", "x-hop") if n in seen] == []
    assert (seen["x-end"], seen.all("connection")) == ("1", ["close"])


def test_what_the_upstream_says_of_tolsey_is_dropped(gateway: Gateway, upstream: Upstream, token: str) -> None:
    lines = ("Tolsey-Cost: 0 USD", "TOLSEY-REMAINING: 1000000 USD", "Tolsey-Hold: x", "Tolsey-Other: x")
    seen = down(gateway, upstream, token, *lines)
    assert (seen["tolsey-cost"], seen.all("tolsey-other")) == ("0.01 USD", [])
    assert seen["tolsey-hold"] != "x"
    assert seen["tolsey-remaining"].startswith("9")


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("http://127.0.0.1:<port>/v2/x?y=1#z", "/x?y=1#z"),
        ("HTTP://127.0.0.1:<port>/v2/x", "/x"),
        ("http://127.0.0.1:<port>/v2", "/"),
        ("http://127.0.0.1:<port>", "/"),
        ("/v2/x", "/x"),
        ("/v2?y", "/?y"),
        ("/v2x/y", "/v2x/y"),
        ("/other/x", "/other/x"),
        ("x/y", "x/y"),
        ("//127.0.0.1:<port>/v2/x", "//127.0.0.1:<port>/v2/x"),
        ("http://127.0.0.1:<port>0/v2/x", "http://127.0.0.1:<port>0/v2/x"),
        ("http://127.0.0.1:<port>.evil.test/v2/x", "http://127.0.0.1:<port>.evil.test/v2/x"),
        ("https://elsewhere.test/v2/x", "https://elsewhere.test/v2/x"),
    ],
)
def test_a_location_on_the_upstream_becomes_one_here(
    gateway: Gateway, upstream: Upstream, token: str, location: str, seen: str
) -> None:
    port = str(upstream.port)
    answer = down(gateway, upstream, token, f"Location: {location.replace('<port>', port)}", target="/keyed/x")
    assert answer["location"] == seen.replace("<port>", port)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_the_clients_to_follow(gateway: Gateway, upstream: Upstream, token: str, status: int) -> None:
    head = f"HTTP/1.1 {status} Go\r\nLocation: /priced/y\r\nContent-Length: 0\r\n\r\n"
    upstream.answers[f"/priced/{status}"] = head.encode()
    before = len(upstream.heard)
    answer = gateway.ask("GET", f"/priced/{status}", token=token)
    assert (answer.status, answer["location"], answer["tolsey-cost"]) == (status, "/priced/y", "0.01 USD")
    assert len(upstream.heard) == before + 1


def test_cookies_go_through_and_are_not_kept(gateway: Gateway, upstream: Upstream, token: str) -> None:
    cookies = ["a=1; Path=/", "b=2; HttpOnly", "a=3"]
    seen = down(gateway, upstream, token, *(f"Set-Cookie: {cookie}" for cookie in cookies))
    assert seen.all("set-cookie") == cookies
    assert "cookie" not in up(gateway, upstream, token)


def test_a_compressed_body_goes_through_untouched(gateway: Gateway, upstream: Upstream, token: str) -> None:
    packed = gzip.compress(b"words " * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    upstream.answers["/priced/gzip"] = head.encode() + packed
    answer = gateway.ask("GET", "/priced/gzip", "Accept-Encoding: gzip", token=token)
    assert (answer["content-encoding"], answer["content-length"]) == ("gzip", str(len(packed)))
    assert answer.body == packed
    assert upstream.last()["accept-encoding"] == "gzip"


def test_values_outside_ascii_go_through_as_they_are(gateway: Gateway, upstream: Upstream, token: str) -> None:
    lines = ("X-Utf8: caf\xc3\xa9", "Set-Cookie: a=1", "Set-Cookie: b=\xe9", "Set-Cookie: c=3", "X-After: 1")
    seen = down(gateway, upstream, token, *lines)
    assert (seen["x-utf8"], seen["x-after"]) == ("caf\xc3\xa9", "1")
    assert seen.all("set-cookie") == ["a=1", "b=\xe9", "c=3"]


def test_the_upstreams_date_and_server_are_its_own(gateway: Gateway, upstream: Upstream, token: str) -> None:
    seen = down(gateway, upstream, token, "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Server: nginx")
    assert (seen["server"], seen["date"]) == ("nginx", "Sun, 06 Nov 1994 08:49:37 GMT")


def test_a_public_answer_says_nothing_of_tolsey(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answers["/open/said"] = OK.replace(b"\r\n\r\n", b"\r\nTolsey-Cost: 5 USD\r\n\r\n")
    answer = gateway.ask("GET", "/open/said")
    assert [name for name, _ in answer.headers if name.startswith("tolsey")] == []
