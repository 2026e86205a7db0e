"""What an admin does, once its token was cleared for the action: over the API and on the dashboard alike."""

from tolsey.admin import models
from tolsey.admin.access import Admin
from tolsey.admin.office import Office
from tolsey.admin.problems import Refused, Wrong
from tolsey.errors import Refusal, TokenError, TokenMalformed, TolseyError
from tolsey.ledger.approving import Asked, document
from tolsey.ledger.revoking import Handle, Revised, Revocation, handle_of
from tolsey.store import by_hand, minting
from tolsey.store.contract import Snapshot
from tolsey.token.admin import bound, charge_of, charge_of_grant, is_bound, refuse_minting
from tolsey.token.caveats import format_time
from tolsey.token.macaroon import Macaroon, prefix_id
from tolsey.units import Amount, parse_amount

NOT_GIVEN = "what was to be minted or granted was not"


def minted(macaroon: Macaroon, label: str) -> models.Minted:
    """A new token, for whoever asked for it."""
    caveats = [str(caveat) for caveat in macaroon.caveats]
    return models.Minted(
        token=macaroon.to_text(), prefix_id=prefix_id(macaroon.signature), label=label, caveats=caveats
    )


async def mint(office: Office, admin: Admin, body: models.MintBody) -> models.Minted:
    """Mint a token within the bounds of the admin's, and take its budget from the `mint-budget`."""
    texts = minting.caveats_of(
        label=body.label, budget=body.budget, scope=body.scope, expires=body.expires, caveats=body.caveats
    )
    if minting.has_budget(texts) == body.free_calls_only:
        raise Wrong(
            "request_invalid",
            "free_calls_only is for a token without a budget"
            if body.free_calls_only
            else "a token without a budget can make no priced call: give a budget, or free_calls_only",
        )
    now = office.now()
    texts = bound(admin.chain, texts, now)
    refusal = refuse_minting(admin.chain, texts, now)
    charges = charge_of(admin.chain, texts) if refusal is None else refusal
    if isinstance(charges, Refusal):
        raise Refused(charges)
    try:
        macaroon, chain = minting.make(office.keys.keyring, texts, office.limits)
    except TokenMalformed as error:
        raise Wrong("caveat_invalid", error.detail) from None
    note = by_hand.noted("minted", admin.who, body.reason or "")
    async with office.changing() as ledger:
        taken = await by_hand.take(ledger, charges, note)
        if isinstance(taken, Refusal):
            raise Refused(taken)
        try:
            await by_hand.open_accounts(ledger, chain.accounts(), note)
        except TolseyError:
            await by_hand.put_back(ledger, taken, NOT_GIVEN)
            raise
    return minted(macaroon, body.label)


async def grant(office: Office, admin: Admin, account: str, body: models.GrantBody) -> tuple[Amount, Amount]:
    """Raise a limit, and take that from the `mint-budget`; what was granted, and what the account has left."""
    more = parse_amount(body.amount)
    by_hand.check_grant(more)
    charge = charge_of_grant(admin.chain, more)
    if isinstance(charge, Refusal):
        raise Refused(charge)
    async with office.changing() as ledger:
        note = by_hand.noted(f"{more} granted to {account}", admin.who, body.reason)
        taken = await by_hand.take(ledger, [] if charge is None else [charge], note)
        if isinstance(taken, Refusal):
            raise Refused(taken)
        try:
            left = await by_hand.grant(ledger, office.snapshot(), account, more, who=admin.who, reason=body.reason)
        except TolseyError:
            await by_hand.put_back(ledger, taken, NOT_GIVEN)
            raise
    return more, left


async def void(office: Office, admin: Admin, hold: str, body: models.Why) -> by_hand.Returned:
    """Say that a call was not served."""
    _check_own(admin, hold)
    async with office.changing() as ledger:
        return await by_hand.void(ledger, office.snapshot(), hold, who=admin.who, reason=body.reason)


async def refund(office: Office, admin: Admin, hold: str, body: models.RefundBody) -> Amount:
    """Give back what a call was charged, or a part of it; what was given back."""
    wanted = None if body.amount is None else parse_amount(body.amount)
    _check_own(admin, hold)
    async with office.changing() as ledger:
        return await by_hand.refund(ledger, hold, wanted, who=admin.who, reason=body.reason)


async def revoke(office: Office, admin: Admin, body: models.RevokeBody) -> tuple[Handle, Revised]:
    """Revoke a prefix id or a Link of a token; what it was, and what became of it."""
    handle = Handle(body.prefix_id or "", None, None, None)
    if body.token is not None:
        try:
            # What stands behind the colon is the preimage of a paid token.
            macaroon, *_ = Macaroon.deserialize_all(body.token.partition(":")[0])
            handle = handle_of(macaroon, office.keys.keyring.derived, body.link)
        except TokenError as error:
            # Not the code of a token that opens nothing: that is about the admin's own.
            raise Wrong("request_invalid", error.detail) from None
    async with office.changing() as ledger:
        return handle, await by_hand.revoke(ledger, handle, who=admin.who, reason=body.reason)


async def unrevoke(office: Office, admin: Admin, prefix_id: str, body: models.Why) -> Revocation:
    """Take a revocation back; return it as it stood."""
    async with office.changing() as ledger:
        return await by_hand.unrevoke(ledger, prefix_id, who=admin.who, reason=body.reason)


async def answer(office: Office, admin: Admin, question: str, body: models.Why, *, granted: bool) -> Asked:
    """Answer a question about a call; return it as it stood."""
    async with office.changing() as ledger:
        return await by_hand.answer(ledger, question, granted=granted, who=admin.who, reason=body.reason)


def questions(snapshot: Snapshot) -> list[dict[str, object]]:
    """The calls that wait for an answer, oldest first."""
    with snapshot:
        now = snapshot.now()
        return [document(asked, now) for asked in snapshot.questions() if asked.is_open(now)]


def revocation(found: Revocation | None) -> dict[str, str | None]:
    """A revocation as the API shows it."""
    if found is None:
        raise AssertionError("what was revoked is revoked")
    until = None if found.expires is None else format_time(found.expires)
    return {"prefix_id": found.id, "since": format_time(found.since), "until": until, "note": found.note}


def _check_own(admin: Admin, hold: str) -> None:
    """Refuse to give back what minting took, to whoever is bound by it: the minted token would still be there."""
    if hold.startswith(by_hand.MINTING) and is_bound(admin.chain):
        raise Wrong("hold_refused", "what was minted or granted is given back by an admin without a mint-budget alone")
