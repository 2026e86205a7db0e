"""Logging in to the dashboard by OpenID Connect: the authorization code flow, with PKCE (RFC 7636), state and nonce.

What comes of it is the identity token in a session, as if it had been typed in: each page verifies it again and asks
the mint policies what its holder may do. A log-in that was begun is kept here, for one answer, and tied to the browser
by a cookie of its own, so that nobody can be logged in as somebody else by a link (RFC 9700, 4.7).
"""

import asyncio
import base64
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request

from tolsey.admin.access import admin_of
from tolsey.admin.identity import FETCH_SECONDS, FRESH_SECONDS, Unfit, ask, asking, discover
from tolsey.admin.office import Office
from tolsey.admin.policy import Provider
from tolsey.errors import TokenForged, TolseyError
from tolsey.token.caveats import SECOND

BEGUN: Final = "tolsey_login"
"""The cookie of a browser that is logging in."""

MAX_BEGUN: Final = 256
MOST_SECONDS: Final = 600
"""How many log-ins may be under way, and for how long; the oldest gives way."""


class LoginFailed(TolseyError):
    """A log-in that came to nothing, for a reason that its page may say."""

    code = "identity_unavailable"


@dataclass(frozen=True, slots=True)
class _Begun:
    provider: str
    browser: bytes
    nonce: str
    verifier: str
    to: str
    at: int


class SigningIn:
    """The log-ins that are under way at one gateway."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._begun: OrderedDict[bytes, _Begun] = OrderedDict()
        self._known: dict[Provider, tuple[int, Callable[[str], str]]] = {}

    def providers(self) -> list[str]:
        """The names of the providers that people log in with."""
        return [each.name for each in self._office.minting().providers if each.login is not None]

    async def begin(self, name: str, to: str) -> tuple[str, str]:
        """Where to send the browser that wants to go on to the path `to`, and its cookie. Raises `LoginFailed`."""
        provider, dashboard = self._find(name)
        state, browser, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        try:
            find = await self._endpoints(provider)
            where = find("authorization_endpoint")
        except (Unfit, TimeoutError):
            raise LoginFailed(f"the provider {name} does not answer as it should; try again later") from None
        self._begun[_digest(state)] = _Begun(name, _digest(browser), nonce, verifier, to, self._office.now())
        while len(self._begun) > MAX_BEGUN:
            self._begun.popitem(last=False)
        asked = {
            "response_type": "code",
            "client_id": provider.audience,
            "redirect_uri": _back(dashboard, name),
            "scope": "openid email profile",
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(_digest(verifier)).rstrip(b"=").decode("ascii"),
            "code_challenge_method": "S256",
        }
        return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", browser

    async def end(self, name: str, request: Request) -> tuple[str, str]:
        """The identity token that the provider's answer leads to, and the path to go on to. Raises `TolseyError`."""
        provider, dashboard = self._find(name)
        answer = request.query_params
        begun = self._begun.pop(_digest(answer.get("state", "")), None)
        ours = begun is not None and hmac.compare_digest(begun.browser, _digest(request.cookies.get(BEGUN, "")))
        if begun is None or not ours or begun.provider != name:
            raise LoginFailed("this log-in was not begun in this browser, or is over already: begin it again")
        if self._office.now() - begun.at > MOST_SECONDS * SECOND:
            raise LoginFailed("this log-in took too long: begin it again")
        if answer.get("iss", provider.issuer) != provider.issuer:
            raise LoginFailed("another provider has answered than was asked")
        if "code" not in answer:
            raise LoginFailed(f"the provider {name} says: {answer.get('error', 'nothing')[:64]}")
        token = await self._exchange(provider, _back(dashboard, name), answer["code"], begun.verifier)
        _, claims = await self._office.identities.verify(token, [provider])
        if not hmac.compare_digest(
            str(claims.get("nonce", "")).encode("utf-8", "surrogatepass"), begun.nonce.encode("ascii")
        ):
            raise TokenForged("the identity token is not of this log-in")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != provider.audience:
            raise TokenForged("the identity token was made for another client")
        # That a policy is for this person is said now, and not by an empty dashboard.
        await admin_of(self._office, token, request.client.host if request.client is not None else "", None)
        return token, begun.to

    def _find(self, name: str) -> tuple[Provider, str]:
        for provider in self._office.minting().providers:
            if provider.name == name and provider.login is not None:
                return provider, provider.login
        raise LoginFailed(f"nobody logs in with {name[:32]!r} here")

    async def _endpoints(self, provider: Provider) -> Callable[[str], str]:
        """Where a provider is asked, from memory for a while. Raises `Unfit` or `TimeoutError`."""
        known = self._known.get(provider)
        if known is None or self._office.now() - known[0] > FRESH_SECONDS * SECOND:
            async with asyncio.timeout(FETCH_SECONDS), asking(provider.ca) as client:
                known = self._known[provider] = self._office.now(), await discover(client, provider.issuer)
        return known[1]

    async def _exchange(self, provider: Provider, back: str, code: str, verifier: str) -> str:
        """The identity token for a code (OpenID Connect Core 1.0, 3.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "client_id": provider.audience,
            "code_verifier": verifier,
        }
        # What every provider takes (RFC 6749, 2.3.1).
        shown = (quote(provider.audience, safe=""), quote(provider.secret, safe="")) if provider.secret else None
        token: object = None
        with suppress(Unfit, TimeoutError):
            find = await self._endpoints(provider)
            async with asyncio.timeout(FETCH_SECONDS), asking(provider.ca) as client:
                token = (await ask(client, find("token_endpoint"), form, shown)).get("id_token")
        if not isinstance(token, str):
            raise LoginFailed(f"the provider {provider.name} gave no identity token for this log-in")
        return token


def _back(dashboard: str, name: str) -> str:
    return f"{dashboard}/login/{quote(name)}/done"


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
