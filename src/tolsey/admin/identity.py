"""OpenID Connect tokens, verified: their signature with a key of the provider, and whom they are from, for and about.

A provider's keys are found as OpenID Connect Discovery 1.0 says, kept, and fetched again when they are old, or when a
token names one that is not among them: then at most once in `AGAIN_SECONDS`, however many such tokens come. What hangs
or is too large is given up. Only signatures with a private key are taken (RFC 8725, 3.1), so that no public key can be
passed off as a shared secret.
"""

import asyncio
import base64
import binascii
import json
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tolsey.admin.policy import Provider, is_safe
from tolsey.errors import TokenForged, TokenMalformed, TolseyError
from tolsey.token.caveats import SECOND

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import Key

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""The signatures that are taken."""

MAX_TOKEN: Final = 16 * 1024
"""The longest token, in characters."""

MAX_DOCUMENT: Final = 256 * 1024
"""The largest document of a provider, in bytes."""

MAX_KEYS: Final = 64

FETCH_SECONDS: Final = 5.0
"""How long a provider may take to give its keys, both documents together."""

FRESH_SECONDS: Final = 600
"""How long keys are used before they are fetched again."""

STALE_SECONDS: Final = 3600
"""How long keys are used while they cannot be fetched again."""

AGAIN_SECONDS: Final = 30
"""How long to wait before keys are fetched again for want of one, or after that failed."""

LEEWAY_SECONDS: Final = 30
"""How far a provider's clock may be off."""

DISCOVERY: Final = "/.well-known/openid-configuration"


class IdentityUnavailable(TolseyError):
    """A provider's keys cannot be had at the moment."""

    code = "identity_unavailable"


class IdentityExpired(TolseyError):
    """An identity token whose time is over."""

    code = "token_expired"


def check_extra() -> None:
    """Raise `IdentityUnavailable` where what this needs is not installed."""
    try:
        import httpx  # noqa: F401 - only to see whether it is there
        import joserfc  # noqa: F401 - likewise
    except ModuleNotFoundError:
        raise IdentityUnavailable("[[oidc]] needs httpx and joserfc: pip install 'tolsey[oidc]'") from None


def is_identity(token: str) -> bool:
    """Whether a credential looks like a JWT: three parts, the first a JSON object."""
    return token.count(".") == 2 and token.startswith("ey")


class Identities:
    """The keys of all providers that were asked for. `now` is in nanoseconds since the epoch."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._keys: dict[Provider, _Keys] = {}

    async def verify(self, token: str, providers: Sequence[Provider]) -> tuple[Provider, dict[str, Any]]:
        """Whom a token is from, and its claims. Raises `TokenMalformed`, `TokenForged`, `IdentityExpired` or
        `IdentityUnavailable`.
        """
        check_extra()
        if len(token) > MAX_TOKEN:
            raise TokenMalformed(f"an identity token has at most {MAX_TOKEN} characters")
        header, claimed = (_read(part) for part in token.split(".")[:2])
        issuer, algorithm, key_id = claimed.get("iss"), header.get("alg"), header.get("kid")
        provider = next((each for each in providers if each.issuer == issuer), None)
        if provider is None:
            raise TokenForged("the identity token is from a provider that is not known here")
        if algorithm not in ALGORITHMS:
            raise TokenForged("the identity token is not signed in a way that is taken here")
        keys = self._keys.setdefault(provider, _Keys(provider, self._now))
        key = await keys.find(key_id if isinstance(key_id, str) else None)
        return provider, _verify(token, key, provider, self._now() // SECOND)


def _read(part: str) -> dict[str, Any]:
    """What a part of a token says, unverified."""
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TokenMalformed("the identity token is not a JWT")
    return found


def _verify(token: str, key: "Key", provider: Provider, now: int) -> dict[str, Any]:
    from joserfc import jwt
    from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, SecurityWarning

    registry = jwt.JWTClaimsRegistry(
        now=now,
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": provider.issuer},
        aud={"essential": True, "value": provider.audience},
        sub={"essential": True},
        exp={"essential": True},
    )
    try:
        with warnings.catch_warnings():
            # It warns of the name EdDSA, which providers go on using for Ed25519.
            warnings.simplefilter("ignore", SecurityWarning)
            claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
        registry.validate(claims)
    except ExpiredTokenError:
        raise IdentityExpired("the identity token has expired") from None
    except ClaimError as error:
        raise TokenForged(f"the identity token's claim {error.claim} is missing, or not what it must be here") from None
    except (JoseError, ValueError, RecursionError):
        raise TokenForged("the identity token's signature is not that of its provider") from None
    return claims


class _Keys:
    """The keys of one provider, by key id."""

    def __init__(self, provider: Provider, now: Callable[[], int]) -> None:
        self._provider = provider
        self._now = now
        self._found: dict[str | None, Key] = {}
        self._fetched: int | None = None
        self._tried: int | None = None
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> "Key":
        """The key with an id; without one, the only key there is."""
        if self._is_old(self._fetched, FRESH_SECONDS) or self._get(key_id) is None:
            await self._fetch()
        if self._is_old(self._fetched, STALE_SECONDS):
            raise IdentityUnavailable(f"the keys of the provider {self._provider.name} cannot be had at the moment")
        key = self._get(key_id)
        if key is None:
            raise TokenForged("the identity token is signed with a key that its provider does not have")
        return key

    def _get(self, key_id: str | None) -> "Key | None":
        if key_id is None and len(self._found) == 1:
            return next(iter(self._found.values()))
        return self._found.get(key_id)

    def _is_old(self, at: int | None, seconds: int) -> bool:
        return at is None or self._now() - at > seconds * SECOND

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was tried a moment ago. Failing leaves those that there are."""
        async with self._fetching:
            if not self._is_old(self._tried, AGAIN_SECONDS):
                return
            self._tried = self._now()
            with suppress(Unfit, TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    self._found = await fetch_keys(self._provider.issuer, self._provider.ca)
                self._fetched = self._now()


class Unfit(Exception):
    """What a provider answers is of no use."""


async def fetch_keys(issuer: str, ca: Path | None) -> "dict[str | None, Key]":
    """The signing keys of a provider. Raises `Unfit`."""
    async with asking(ca) as client:
        return read_keys(await ask(client, (await discover(client, issuer))("jwks_uri")))


@asynccontextmanager
async def asking(ca: Path | None) -> "AsyncIterator[httpx.AsyncClient]":
    """A client for a provider, trusted by the certificate in `ca`. Whatever goes wrong there raises `Unfit`."""
    import httpx

    try:
        trust: ssl.SSLContext | bool = True if ca is None else ssl.create_default_context(cafile=ca)
        async with httpx.AsyncClient(verify=trust, timeout=FETCH_SECONDS, follow_redirects=False) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        raise Unfit from None


async def discover(client: "httpx.AsyncClient", issuer: str) -> Callable[[str], str]:
    """What finds the URLs in a provider's document. Both raise `Unfit`."""
    document = await ask(client, issuer.rstrip("/") + DISCOVERY)
    if document.get("issuer") != issuer:
        raise Unfit

    def find(name: str) -> str:
        where = document.get(name)
        if not isinstance(where, str) or not is_safe(where):
            raise Unfit
        return where

    return find


async def ask(
    client: "httpx.AsyncClient",
    url: str,
    form: Mapping[str, str] | None = None,
    shown: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """A document of a provider, in answer to a form if there is one; `shown` are a client's id and secret. Raises
    `Unfit`.
    """
    body = b""
    method = "GET" if form is None else "POST"
    async with client.stream(method, url, headers={"Accept": "application/json"}, data=form, auth=shown) as answer:
        if answer.status_code != 200:
            raise Unfit
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > MAX_DOCUMENT:
                raise Unfit
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unfit
    return found


def read_keys(document: Mapping[str, object]) -> "dict[str | None, Key]":
    """The keys of a JWK set that can verify signatures. What is not understood is left out, as RFC 7517 says: shared
    secrets, keys for encryption, kinds that are not known.
    """
    from joserfc.errors import JoseError, SecurityWarning
    from joserfc.jwk import JWKRegistry

    entries = document.get("keys")
    if not isinstance(entries, list):
        raise Unfit
    found: dict[str | None, Key] = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use") == "enc":
            continue
        # It warns of keys that are too short to be relied upon.
        with warnings.catch_warnings(), suppress(JoseError, SecurityWarning, ValueError, TypeError, KeyError):
            warnings.simplefilter("error", SecurityWarning)
            key_id = entry.get("kid")
            found[key_id if isinstance(key_id, str) else None] = JWKRegistry.import_key(entry)
    return found
