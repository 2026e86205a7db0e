"""What the admin API changes: tokens, money by hand, keys. Who did it, and why, is an entry."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from tolsey import attenuate
from tolsey.admin import models
from tolsey.admin.access import Admin, Place, may
from tolsey.admin.office import Office
from tolsey.admin.problems import Refused, Wrong
from tolsey.errors import Refusal, TokenMalformed, TolseyError
from tolsey.ledger.events import Kind
from tolsey.store import by_hand, minting
from tolsey.token.admin import bound, charge_of, charge_of_grant, is_bound, refuse_minting
from tolsey.token.macaroon import Macaroon, prefix_id
from tolsey.units import Amount, format_nano, parse_amount

router = APIRouter(prefix="/api")

NOT_GIVEN = "what was to be minted or granted was not"


def _minted(macaroon: Macaroon, label: str) -> models.Minted:
    caveats = [str(caveat) for caveat in macaroon.caveats]
    return models.Minted(
        token=macaroon.to_text(), prefix_id=prefix_id(macaroon.signature), label=label, caveats=caveats
    )


@router.post("/mint", response_model=models.Minted, status_code=201)
async def mint(office: Place, admin: Annotated[Admin, Depends(may("mint"))], body: models.MintBody) -> object:
    """Make a new token. What the admin token demands of it is written into it where it was left out.

    Where the admin token has a `mint-budget`, the new token's budget is taken from it.
    """
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
    return _minted(macaroon, body.label)


@router.post("/attenuate", response_model=models.Minted)
async def make_narrower(_: Annotated[Admin, Depends(may("attenuate"))], body: models.AttenuateBody) -> object:
    """Make a narrower token from a token. Any holder can do that offline: nothing is written down."""
    try:
        text = attenuate(
            body.token,
            label=body.label,
            budget=body.budget,
            scope=body.scope,
            expires=body.expires,
            caveats=body.caveats,
        )
    except TokenMalformed as error:
        # Not the code of a token that opens nothing: that is about the admin's own.
        raise Wrong("request_invalid", error.detail) from None
    return _minted(Macaroon.deserialize(text), body.label)


@router.post("/accounts/{prefix_id}/grant", response_model=models.GrantOut)
async def grant(
    office: Place, admin: Annotated[Admin, Depends(may("grant"))], prefix_id: models.PrefixId, body: models.GrantBody
) -> object:
    """Raise the limit of an account. The accounts above it still bind."""
    more = parse_amount(body.amount)
    by_hand.check_grant(more)
    charge = charge_of_grant(admin.chain, more)
    if isinstance(charge, Refusal):
        raise Refused(charge)
    async with office.changing() as ledger:
        note = by_hand.noted(f"{more} granted to {prefix_id}", admin.who, body.reason)
        taken = await by_hand.take(ledger, [] if charge is None else [charge], note)
        if isinstance(taken, Refusal):
            raise Refused(taken)
        try:
            left = await by_hand.grant(ledger, office.snapshot(), prefix_id, more, who=admin.who, reason=body.reason)
        except TolseyError:
            await by_hand.put_back(ledger, taken, NOT_GIVEN)
            raise
    return {
        "prefix_id": prefix_id,
        "granted": format_nano(more.nano),
        "unit": more.unit,
        "left": format_nano(left.nano),
        "reason": body.reason,
        "by": admin.who,
    }


@router.post("/holds/{hold}/void", response_model=models.Returned)
async def void(
    office: Place, admin: Annotated[Admin, Depends(may("void"))], hold: models.HoldId, body: models.Why
) -> object:
    """Say that a call was not served, and give its money back: of an open hold, or one charged as unmetered."""
    _check_own(admin, hold)
    async with office.changing() as ledger:
        back, was = await by_hand.void(ledger, office.snapshot(), hold, who=admin.who, reason=body.reason)
    return _returned(hold, was, back, body.reason, admin)


@router.post("/holds/{hold}/refund", response_model=models.Returned)
async def refund(
    office: Place, admin: Annotated[Admin, Depends(may("refund"))], hold: models.HoldId, body: models.RefundBody
) -> object:
    """Give back what a call was charged, or a part of it. The call stays counted."""
    wanted = None if body.amount is None else parse_amount(body.amount)
    _check_own(admin, hold)
    async with office.changing() as ledger:
        back = await by_hand.refund(ledger, hold, wanted, who=admin.who, reason=body.reason)
    return _returned(hold, "charged", back, body.reason, admin)


def _check_own(admin: Admin, hold: str) -> None:
    """Refuse to give back what minting took, to whoever is bound by it: the minted token would still be there."""
    if hold.startswith(by_hand.MINTING) and is_bound(admin.chain):
        raise Wrong("hold_refused", "what was minted or granted is given back by an admin without a mint-budget alone")


def _returned(hold: str, was: str, back: Amount, reason: str, admin: Admin) -> BaseModel:
    return models.Returned(
        hold=hold, was=was, returned=format_nano(back.nano), unit=back.unit, reason=reason, by=admin.who
    )


@router.post("/keys/rotate", response_model=models.Rotated)
async def rotate(office: Place, admin: Annotated[Admin, Depends(may("rotate"))], body: models.RotateBody) -> object:
    """Add a root key, with which new tokens of its kind are made. Those made with the older ones still verify.

    No admin token comes of it: `tolsey keys rotate --kind admin` prints one.
    """
    kind = next(kind for kind, name in minting.KIND_NAMES.items() if name == body.kind)
    before = next(reversed(office.keys.keyring.key_ids(kind)), None)
    async with office.changing() as ledger:
        new = await asyncio.to_thread(office.keys.keyring.rotate, kind)
        await ledger.note(Kind.KEYS, by_hand.noted(f"{body.kind} key {new} added", admin.who, body.reason))
    return {"id": new, "kind": body.kind, "before": before, "reason": body.reason, "by": admin.who}


@router.post("/keys/{key_id}/drop", response_model=models.Dropped)
async def drop(
    office: Place, admin: Annotated[Admin, Depends(may("drop"))], key_id: models.KeyId, body: models.Why
) -> object:
    """Remove an old root key for good: every token made with it is refused from then on."""
    kind = _kind_of(office, key_id)
    name = minting.KIND_NAMES[kind]
    async with office.changing() as ledger:
        # Written down first: a key that is gone without a word would be worse than a word too many.
        await ledger.note(Kind.KEYS, by_hand.noted(f"{name} key {key_id} dropped", admin.who, body.reason))
        await asyncio.to_thread(office.keys.keyring.drop, key_id)
    return {"id": key_id, "kind": name, "reason": body.reason, "by": admin.who}


def _kind_of(office: Office, key_id: str) -> str:
    """The kind of a key that can be dropped. Raises `Wrong`."""
    for kind in minting.KIND_NAMES:
        ids = office.keys.keyring.key_ids(kind)
        if key_id in ids[:-1]:
            return kind
        if key_id in ids:
            raise Wrong("key_in_use", f"{key_id} is the current key of its kind; rotate first")
    raise Wrong("key_unknown", f"there is no key {key_id}")
