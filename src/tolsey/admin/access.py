"""Who asks: the admin token of a request, verified and cleared for one action."""

from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from tolsey.admin.identity import is_identity
from tolsey.admin.office import Office
from tolsey.admin.policy import choose, shown_name, token_of
from tolsey.admin.problems import Refused, Wrong
from tolsey.call import Call
from tolsey.errors import Refusal, TokenError
from tolsey.token.admin import clear_act
from tolsey.token.chain import ADMIN, Chain

_SCHEME = HTTPBearer(
    scheme_name="admin token",
    bearerFormat="macaroon",
    auto_error=False,
    description="An admin token: the one that `tolsey init` printed, or one that was attenuated from it; or an OpenID"
    " Connect token of a provider that the config names.",
)


class Admin(NamedTuple):
    """An admin whose token allows the action that is asked for. `who` is what entries call it."""

    chain: Chain
    who: str


def office_of(request: Request) -> Office:
    """The office of an application."""
    office: Office = request.app.state.office
    return office


Place = Annotated[Office, Depends(office_of)]


def may(action: str | None, *query: str) -> Callable[..., Awaitable[Admin]]:
    """A dependency: the admin, if its token allows `action` (None: any token that can be used now). `query` are the
    parameters that the path takes, each at most once: one that was misspelt is an error.
    """

    async def check(request: Request, office: Place, _: Annotated[object, Security(_SCHEME)]) -> Admin:
        admin = await identify(office, request, action)
        sent = [name for name, _ in request.query_params.multi_items()]
        if not set(sent) <= set(query) or len(set(sent)) != len(sent):
            known = f"known are {', '.join(query)}, each once" if query else "this path takes none"
            raise Wrong("request_invalid", f"a query parameter is not known, or repeated: {known}")
        return admin

    return check


async def identify(office: Office, request: Request, action: str | None) -> Admin:
    """The admin that sent a request, if its token allows `action`. Raises `Refused` or `Wrong`."""
    peer = request.client.host if request.client is not None else ""
    return await admin_of(office, _bearer(request), peer, action)


async def admin_of(office: Office, token: str, peer: str, action: str | None) -> Admin:
    """The admin that holds a token, if it allows `action` (None: whatever needs no particular one) from that address.

    Raises `Refused` or `Wrong`.
    """
    office.keys.refresh(office.now())
    by = None
    try:
        if is_identity(token) and office.minting().providers:
            token, by = await _by_policy(office, token)
        chain = office.verifier.verify(token)
    except TokenError as error:
        raise Refused(Refusal(error.code, error.detail)) from None
    call = Call("", "", "", peer, office.now())
    refusal = await office.revocations.check(chain) or clear_act(chain, action, call)
    if refusal is not None:
        raise Refused(refusal)
    who = by or f"admin {chain.links[-1].label or 'without a label'}"
    return Admin(chain, f"{who} ({chain.prefix_ids[-1]})")


async def _by_policy(office: Office, identity: str) -> tuple[str, str]:
    """The admin token that the holder of an identity token has by policy, and who that is. Raises `Wrong` for one that
    no policy is for.
    """
    minting = office.minting()
    provider, claims = await office.identities.verify(identity, minting.providers)
    policy = choose(minting.policies, provider.name, claims)
    if policy is None:
        raise Wrong("policy_missing", "no mint policy is for this identity")
    try:
        token = token_of(policy, provider, claims, office.keys.keyring.current(ADMIN))
    except ValueError as error:
        raise Wrong("policy_missing", f"the mint policy {policy.name} cannot be applied: {error}") from None
    return token.to_text(), f"{shown_name(provider, claims)} of {provider.name} by policy {policy.name}"


def _bearer(request: Request) -> str:
    """The token in the one `Authorization` header. Raises `Refused`."""
    found = request.headers.getlist("authorization")
    if len(found) > 1:
        raise Refused(Refusal("credentials_ambiguous", "send one Authorization header"))
    scheme, _, token = (found[0] if found else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(Refusal("token_missing", "send an admin token as 'Authorization: Bearer …'"))
    return token.strip()
