"""What the admin API changes: tokens, money by hand, keys. Who did it, and why, is an entry."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from tolsey import attenuate
from tolsey.admin import acts, models
from tolsey.admin.access import Admin, Place, may
from tolsey.admin.office import Office
from tolsey.admin.problems import Wrong
from tolsey.errors import TokenMalformed
from tolsey.ledger.events import Kind
from tolsey.store import by_hand, minting
from tolsey.token.macaroon import Macaroon
from tolsey.units import Amount, format_nano

router = APIRouter(prefix="/api")


@router.post("/mint", response_model=models.Minted, status_code=201)
async def mint(office: Place, admin: Annotated[Admin, Depends(may("mint"))], body: models.MintBody) -> object:
    """Make a new token. What the admin token demands of it is written into it where it was left out.

    Where the admin token has a `mint-budget`, the new token's budget is taken from it.
    """
    return await acts.mint(office, admin, body)


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
    return acts.minted(Macaroon.deserialize(text), body.label)


@router.post("/accounts/{prefix_id}/grant", response_model=models.GrantOut)
async def grant(
    office: Place, admin: Annotated[Admin, Depends(may("grant"))], prefix_id: models.PrefixId, body: models.GrantBody
) -> object:
    """Raise the limit of an account. The accounts above it still bind."""
    more, left = await acts.grant(office, admin, prefix_id, body)
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
    back, was = await acts.void(office, admin, hold, body)
    return _returned(hold, was, back, body.reason, admin)


@router.post("/holds/{hold}/refund", response_model=models.Returned)
async def refund(
    office: Place, admin: Annotated[Admin, Depends(may("refund"))], hold: models.HoldId, body: models.RefundBody
) -> object:
    """Give back what a call was charged, or a part of it. The call stays counted."""
    back = await acts.refund(office, admin, hold, body)
    return _returned(hold, "charged", back, body.reason, admin)


def _returned(hold: str, was: str, back: Amount, reason: str, admin: Admin) -> BaseModel:
    return models.Returned(
        hold=hold, was=was, returned=format_nano(back.nano), unit=back.unit, reason=reason, by=admin.who
    )


@router.post("/revoke", response_model=models.Revoked)
async def revoke(office: Place, admin: Annotated[Admin, Depends(may("revoke"))], body: models.RevokeBody) -> object:
    """Refuse a token, also an admin token, and all that was or will be made from it, within a second."""
    handle, revised = await acts.revoke(office, admin, body)
    return {
        **acts.revocation(revised.revocation),
        "link": handle.number,
        "label": handle.label,
        "changed": revised.changed,
    }


@router.post("/revoked/{prefix_id}/unrevoke", response_model=models.Unrevoked)
async def unrevoke(
    office: Place, admin: Annotated[Admin, Depends(may("unrevoke"))], prefix_id: models.PrefixId, body: models.Why
) -> object:
    """Take a revocation back."""
    before = acts.revocation(await acts.unrevoke(office, admin, prefix_id, body))
    return {**before, "reason": body.reason, "by": admin.who}


@router.post("/approvals/{question}/approve", response_model=models.Answered)
async def approve(
    office: Place, admin: Annotated[Admin, Depends(may("approve"))], question: models.QuestionId, body: models.Why
) -> object:
    """Say yes to one call that waits for approval. The agent has five minutes to make it, once."""
    return await _answered(office, admin, question, body, granted=True)


@router.post("/approvals/{question}/deny", response_model=models.Answered)
async def deny(
    office: Place, admin: Annotated[Admin, Depends(may("deny"))], question: models.QuestionId, body: models.Why
) -> object:
    """Say no to one call that waits for approval."""
    return await _answered(office, admin, question, body, granted=False)


async def _answered(office: Office, admin: Admin, question: str, body: models.Why, *, granted: bool) -> object:
    asked = await acts.answer(office, admin, question, body, granted=granted)
    return {"id": asked.question.id, "granted": granted, "reason": body.reason, "by": admin.who}


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
