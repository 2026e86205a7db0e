"""People and workloads that mint with an OpenID Connect token: a real provider, and what goes wrong there."""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import RSAKey

from tests.admins import Api, minted, notes
from tests.gateways import Gateway, serving, until
from tests.issuer import AUDIENCE, Issuer, encoded, part
from tests.ports import free_port
from tests.upstreams import Upstream
from tolsey.admin import identity
from tolsey.admin.identity import Identities, IdentityUnavailable
from tolsey.admin.policy import Provider
from tolsey.errors import TokenForged

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
[[oidc]]
name = "corp"
issuer = "<issuer>"
audience = "tolsey"
shown = "email"
[[oidc]]
name = "other"
issuer = "<other>"
audience = "client-1"
[[mint_policy]]
name = "research"
provider = "corp"
claims = { groups = "research", "realm_access.roles" = ["minter", "admin-*"] }
budget = "10 USD/day"
scope = "/api/v1/*"
lifetime = "24h"
label = "{sub}-*"
actions = ["mint", "trail"]
[[mint_policy]]
name = "ci"
provider = "corp"
claims = { sub = "repo:acme/*" }
budget = "1 USD"
scope = "/api/v1/search"
lifetime = "15m"
[[mint_policy]]
name = "anyone"
provider = "other"
claims = { sub = "*" }
budget = "2 USD"
scope = "/*"
lifetime = "1h"
"""

RESEARCH: dict[str, Any] = {
    "groups": ["staff", "research"],
    "realm_access": {"roles": ["minter"]},
    "email": "alice@corp.example",
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider that is not of our making, in a process of its own."""
    port = free_port()
    url = f"http://localhost:{port}"
    with (tmp_path_factory.mktemp("provider") / "out").open("wb") as out:
        command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        until(lambda: is_up(f"{url}{identity.DISCOVERY}") or process.poll() is not None, "the provider is there")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def is_up(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def gateway(
    issuer: Issuer, other: str, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with serving(folder, CONFIG, port=upstream.port, issuer=issuer.url, other=other) as running:
        yield running


def refused(gateway: Gateway, token: str) -> tuple[int, str]:
    with Api(gateway, token) as api:
        document = api.refused("POST", "/mint", json={"label": "x", "budget": "0.1 USD"})
        assert token not in json.dumps(document)
        return document["status"], document["code"]


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_a_person_mints_by_policy(gateway: Gateway, issuer: Issuer, key: str) -> None:
    with Api(gateway, issuer.token(key, **RESEARCH, sub=f"alice-{key}")) as api:
        me = api.get("/me")
        assert me["actions"] == ["mint", "trail"]
        assert re.fullmatch(rf"alice@corp\.example of corp by policy research \({me['prefix_id']}\)", me["who"])
        found = minted(api, label=f"alice-{key}-run", budget="4 USD", reason="a run")
        assert "scope = /api/v1/*" in found["caveats"]
        assert gateway.ask("GET", "/api/v1/search", token=found["token"]).status == 200
        assert notes(gateway, "open")[-1] == f"minted by {me['who']}: a run"
        (own,) = (row for row in api.get("/trail")["accounts"] if row["label"] == f"corp alice-{key}" and row["limit"])
        assert (own["limit"], own["period"], own["window"]["spent"]) == ("10", "day", "4")
        for body in ({"label": "bob-run"}, {"label": f"alice-{key}-x", "scope": "/*"}, {"expires": "2090-01-01"}):
            status, document = api.post("/mint", **{"label": f"alice-{key}-y", "budget": "1 USD"} | body)
            assert (status, document["code"]) == (403, "caveat_refused"), body
        assert api.refused("GET", "/keys")["code"] == "caveat_refused"


def test_the_budget_is_the_persons_and_not_the_tokens(gateway: Gateway, issuer: Issuer) -> None:
    for number in range(5):
        with Api(gateway, issuer.token(**RESEARCH, sub="carol", iat=int(time.time()) - number)) as api:
            minted(api, label="carol-run", budget="2 USD")
    with Api(gateway, issuer.token(**(RESEARCH | {"email": "new@corp.example"}), sub="carol")) as api:
        assert api.post("/mint", label="carol-run", budget="0.01 USD")[1]["code"] == "budget_exhausted"
    with Api(gateway, issuer.token(**RESEARCH, sub="dave")) as api:
        minted(api, label="dave-run", budget="2 USD")


def test_a_workload_mints_by_its_subject(gateway: Gateway, issuer: Issuer) -> None:
    with Api(gateway, issuer.token(sub="repo:acme/search:ref:refs/heads/main")) as api:
        assert api.get("/me")["who"].startswith("repo:acme/search:ref:refs/heads/main of corp by policy ci (")
        found = minted(api, label="build", budget="1 USD")
        assert "scope = /api/v1/search" in found["caveats"]
        assert api.post("/mint", label="build", budget="0.01 USD")[1]["code"] == "budget_exhausted"
    assert refused(gateway, issuer.token(sub="repo:acme-evil/search")) == (403, "policy_missing")


def test_whoever_no_policy_is_for_gets_nothing(gateway: Gateway, issuer: Issuer) -> None:
    several: list[dict[str, Any]] = [
        {},
        {"groups": ["research"]},
        {"groups": ["researchers"], "realm_access": {"roles": ["minter"]}},
        {"groups": {"research": True}, "realm_access": {"roles": ["minter"]}},
        {"groups": ["research"], "realm_access": {"roles": [["minter"]]}},
        {"groups": ["research"], "realm_access": ["minter"]},
        {**RESEARCH, "sub": "*"},
        {**RESEARCH, "sub": "eve mallory"},
    ]
    for claims in several:
        assert refused(gateway, issuer.token(**{"sub": "eve", **claims})) == (403, "policy_missing"), claims


def forged(issuer: Issuer) -> str:
    """A token signed with a key that is not the provider's."""
    stranger = Issuer()
    stranger.close()
    return stranger.token(**RESEARCH, iss=issuer.url)


def unsigned(issuer: Issuer, alg: str = "none") -> str:
    return f"{part({'alg': alg, 'typ': 'JWT'})}.{part(issuer.claims(**RESEARCH))}."


def tampered(issuer: Issuer) -> str:
    head, _, signature = issuer.token(**RESEARCH).split(".")
    return f"{head}.{part(issuer.claims(**RESEARCH, sub='root'))}.{signature}"


def bad_tokens(issuer: Issuer) -> dict[str, tuple[str, str]]:
    """What is wrong: the token, and the code that it is refused with."""
    now = int(time.time())
    return {
        "expired": (issuer.token(**RESEARCH, exp=now - 31), "token_expired"),
        "no end": (issuer.token(**RESEARCH, exp=None), "token_forged"),
        "an end that is a text": (issuer.token(**RESEARCH, exp="soon"), "token_forged"),
        "an end that is no number": (issuer.token(**RESEARCH, exp=True), "token_forged"),
        "not yet": (issuer.token(**RESEARCH, nbf=now + 300), "token_forged"),
        "another audience": (issuer.token(**RESEARCH, aud="somebody-else"), "token_forged"),
        "other audiences": (issuer.token(**RESEARCH, aud=["a", "b"]), "token_forged"),
        "no audience": (issuer.token(**RESEARCH, aud=None), "token_forged"),
        "another issuer": (issuer.token(**RESEARCH, iss="https://id.example"), "token_forged"),
        "an issuer with a slash": (issuer.token(**RESEARCH, iss=f"{issuer.url}/"), "token_forged"),
        "no issuer": (issuer.token(**RESEARCH, iss=None), "token_forged"),
        "no subject": (issuer.token(**RESEARCH, sub=None), "token_forged"),
        "a subject that is a number": (issuer.token(**RESEARCH, sub=7), "token_forged"),
        "alg none": (unsigned(issuer), "token_forged"),
        "alg None": (unsigned(issuer, "None"), "token_forged"),
        "the public key as a secret": (issuer.confused(), "token_forged"),
        "a stranger's key": (forged(issuer), "token_forged"),
        "changed": (tampered(issuer), "token_forged"),
        "of another key than it says": (issuer.token("ec", header={"kid": "rsa"}, **RESEARCH), "token_forged"),
        "no key id, of two keys": (issuer.token(header={"kid": None}, **RESEARCH), "token_forged"),
        "not JSON": ("eyJ.eyJ.x", "token_malformed"),
        "too long": (issuer.token(**RESEARCH, more="x" * 17_000), "token_malformed"),
        "too deep": (f"{part({})}.{encoded(b'[' * 9000)}.x", "token_malformed"),
    }  # fmt: skip


def test_bad_tokens(gateway: Gateway, issuer: Issuer) -> None:
    with Api(gateway, issuer.token(**RESEARCH, exp=int(time.time()) - 20, sub="late")) as api:
        minted(api, label="late-x", budget="1 USD")
    with Api(gateway, issuer.token(**RESEARCH, aud=["a", AUDIENCE], sub="two")) as api:
        minted(api, label="two-x", budget="1 USD")
    for wrong, (token, code) in bad_tokens(issuer).items():
        assert refused(gateway, token) == (401, code), wrong


def test_the_provider_of_others(gateway: Gateway, other: str) -> None:
    """The whole way: a person logs in at a provider, the client gets the ID token, and mints with it."""
    assert httpx.put(f"{other}/users/erin", json={"email": "erin@example.org"}).status_code == 204
    asked = {"client_id": "client-1", "redirect_uri": "http://127.0.0.1/back", "response_type": "code"}
    state = {"scope": "openid", "state": secrets.token_hex(4), "nonce": secrets.token_hex(4)}
    answer = httpx.post(f"{other}/oauth2/authorize", params={**asked, **state}, data={"sub": "erin"})
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    body = {"grant_type": "authorization_code", "code": code, "redirect_uri": asked["redirect_uri"]}
    tokens = httpx.post(f"{other}/oauth2/token", data=body, auth=("client-1", "any")).json()
    with Api(gateway, tokens["id_token"]) as api:
        assert api.get("/me")["who"].startswith("erin of other by policy anyone (")
        found = minted(api, label="erin", budget="2 USD")
        assert api.post("/mint", label="erin", budget="0.01 USD")[1]["code"] == "budget_exhausted"
    assert gateway.ask("GET", "/api/v1/search", token=found["token"]).status == 200


def test_an_identity_token_opens_nothing_on_the_data_port(gateway: Gateway, issuer: Issuer) -> None:
    assert gateway.ask("GET", "/api/v1/search", token=issuer.token(**RESEARCH)).status == 401


def test_policies_are_reloaded(gateway: Gateway, issuer: Issuer) -> None:
    before = gateway.file.read_text()
    gateway.reload(before.replace('claims = { sub = "repo:acme/*" }', 'claims = { sub = "repo:new/*" }'))
    assert refused(gateway, issuer.token(sub="repo:acme/x")) == (403, "policy_missing")
    gateway.reload(before)
    with Api(gateway, issuer.token(sub="repo:acme/x")) as api:
        assert api.get("/me")["actions"] == ["mint"]


# --- the provider's keys


class Clock:
    """Nanoseconds since the epoch, put forward by hand."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead

    def pass_(self, seconds: float) -> None:
        self.ahead += int(seconds * 1_000_000_000)


@pytest.fixture
def own() -> Iterator[Issuer]:
    """A provider that this test may break."""
    running = Issuer()
    yield running
    running.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def identities(clock: Clock) -> Identities:
    return Identities(clock)


def provider(issuer: Issuer) -> Provider:
    return Provider("own", issuer.url, AUDIENCE, "sub", None)


async def test_keys_are_fetched_once_and_kept(own: Issuer, identities: Identities, clock: Clock) -> None:
    for _ in range(3):
        _, claims = await identities.verify(own.token(), [provider(own)])
        assert claims["sub"] == "alice"
    assert own.asked == ["/.well-known/openid-configuration", "/jwks"]
    clock.pass_(identity.FRESH_SECONDS + 1)
    await identities.verify(own.token(exp=int(time.time()) + 5000), [provider(own)])
    assert len(own.asked) == 4


async def test_a_new_key_is_found_and_an_unknown_one_asks_seldom(
    own: Issuer, identities: Identities, clock: Clock
) -> None:
    own.add("next")
    future = int(time.time()) + 10_000
    await identities.verify(own.token(), [provider(own)])
    own.add("newer")
    with pytest.raises(TokenForged, match="a key that its provider does not have"):
        await identities.verify(own.token("newer", exp=future), [provider(own)])
    assert len(own.asked) == 2, "it was asked a moment ago"
    clock.pass_(identity.AGAIN_SECONDS + 1)
    await identities.verify(own.token("newer", exp=future), [provider(own)])
    assert len(own.asked) == 4
    clock.pass_(identity.AGAIN_SECONDS + 1)
    for number in range(20):
        with pytest.raises(TokenForged):
            await identities.verify(own.token(header={"kid": f"made up {number}"}, exp=future), [provider(own)])
    assert len(own.asked) == 6


async def test_a_key_that_the_provider_drops_is_dropped(own: Issuer, identities: Identities, clock: Clock) -> None:
    token = own.token(exp=int(time.time()) + 10_000)
    await identities.verify(token, [provider(own)])
    del own.keys["rsa"]
    clock.pass_(identity.FRESH_SECONDS + 1)
    with pytest.raises(TokenForged):
        await identities.verify(token, [provider(own)])


async def test_keys_outlive_a_short_absence_of_the_provider(own: Issuer, identities: Identities, clock: Clock) -> None:
    token = own.token(exp=int(time.time()) + 20_000)
    await identities.verify(token, [provider(own)])
    own.answers["/jwks"] = (503, b"")
    clock.pass_(identity.STALE_SECONDS - 5)
    await identities.verify(token, [provider(own)])
    clock.pass_(10)
    with pytest.raises(IdentityUnavailable):
        await identities.verify(token, [provider(own)])


BROKEN: dict[str, tuple[str, tuple[int, bytes]]] = {
    "no discovery": ("/.well-known/openid-configuration", (404, b"{}")),
    "a redirect": ("/.well-known/openid-configuration", (302, b"")),
    "no JSON": ("/.well-known/openid-configuration", (200, b"<html>")),
    "a list": ("/.well-known/openid-configuration", (200, b"[]")),
    "of another issuer": (
        "/.well-known/openid-configuration",
        (200, b'{"issuer": "https://x", "jwks_uri": "https://x"}'),
    ),
    "keys that are not JSON": ("/jwks", (200, b"\xff")),
    "keys that are no list": ("/jwks", (200, b'{"keys": {}}')),
    "keys too large": ("/jwks", (200, b" " * (identity.MAX_DOCUMENT + 1))),
    "keys too deep": ("/jwks", (200, b"[" * 100_000)),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_provider_that_answers_nonsense(own: Issuer, identities: Identities, what: str) -> None:
    path, answer = BROKEN[what]
    own.answers[path] = answer
    for _ in range(3):
        with pytest.raises(IdentityUnavailable, match="the keys of the provider own cannot be had"):
            await identities.verify(own.token(), [provider(own)])
    assert len(own.asked) <= 2, "it is not asked again at once"


async def test_keys_are_not_read_from_an_open_network(own: Issuer, identities: Identities) -> None:
    document = {"issuer": own.url, "jwks_uri": "http://192.0.2.1/jwks"}
    own.answers["/.well-known/openid-configuration"] = (200, json.dumps(document).encode())
    with pytest.raises(IdentityUnavailable):
        await identities.verify(own.token(), [provider(own)])


async def test_what_is_no_signing_key_is_left_out(own: Issuer, identities: Identities) -> None:
    strange: list[object] = [
        7,
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"},
        {"kty": "RSA"},
        {"kty": "XMSS", "kid": "x"},
    ]
    strange += [{**own.public("ec"), "kid": "rsa", "use": "enc"}, {"kty": "EC", "crv": "P-0", "x": "AA", "y": "AA"}]
    own.answers["/jwks"] = (200, json.dumps({"keys": [*strange, own.public("rsa")]}).encode())
    await identities.verify(own.token(), [provider(own)])
    with pytest.raises(TokenForged):
        await identities.verify(own.confused(), [provider(own)])


async def test_short_keys_are_left_out_and_old_names_are_known(own: Issuer, identities: Identities) -> None:
    own.add("ed")
    with pytest.warns(SecurityWarning, match="EdDSA"):
        old = own.token("ed", alg="EdDSA")
    with pytest.warns(SecurityWarning, match="2048"):
        own.keys["short"] = RSAKey.generate_key(1024)
    short = own.token("short")
    await identities.verify(old, [provider(own)])
    with pytest.raises(TokenForged):
        await identities.verify(short, [provider(own)])


async def test_without_the_extra_it_says_so(
    own: Issuer, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(IdentityUnavailable, match=r"pip install 'tolsey\[oidc\]'"):
        await identities.verify(own.token(), [provider(own)])


async def test_a_lone_key_needs_no_id(own: Issuer, identities: Identities) -> None:
    del own.keys["ec"]
    await identities.verify(own.token(header={"kid": None}), [provider(own)])


@pytest.mark.slow
def test_a_provider_that_hangs(tmp_path: Path, own: Issuer, upstream: Upstream) -> None:
    """Whoever asks is told so in time, once; the others, and the admin, go on meanwhile."""
    own.answers["/jwks"] = own.hang
    with serving(tmp_path, CONFIG, port=upstream.port, issuer=own.url, other="http://localhost:1") as gateway:
        began = time.monotonic()
        assert refused(gateway, own.token(**RESEARCH)) == (503, "identity_unavailable")
        assert time.monotonic() - began < 4 * identity.FETCH_SECONDS
        again = time.monotonic()
        assert refused(gateway, own.token(**RESEARCH)) == (503, "identity_unavailable")
        assert time.monotonic() - again < identity.FETCH_SECONDS
        assert gateway.ask("GET", "/readyz", admin=True).status == 200
        until(lambda: own.asked.count("/jwks") == 1, "it was asked once")
