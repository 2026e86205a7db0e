"""Changes of the ledger by hand: minted accounts, grants, voids, refunds, revocations.

Who did it, and why, is in each entry. `who` is a person or a token, `reason` what was said. Every one raises
`LedgerUnavailable` where nothing was changed.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from tolsey.errors import LedgerConflict, Refusal, TolseyError
from tolsey.ledger.approving import Asked
from tolsey.ledger.books import Hold
from tolsey.ledger.events import (
    Annul,
    Conflict,
    Event,
    Grant,
    Granted,
    Late,
    Open,
    Outcome,
    Refund,
    Reserve,
    Resolved,
    Settle,
    Shortfall,
    Unknown,
    Void,
)
from tolsey.ledger.revoking import Handle, Revised, Revocation, Revoke, Unrevoke
from tolsey.store.contract import Ledger, Snapshot
from tolsey.token.admin import Charge
from tolsey.token.caveats import format_time
from tolsey.token.chain import Account
from tolsey.units import NANO, Amount

MINTING: Final = "mint-"
"""What the ids of holds begin with by which minting takes from a `mint-budget`."""


class AccountUnknown(TolseyError):
    """A prefix id under which nothing was charged."""

    code: ClassVar[str] = "account_unknown"


class GrantRefused(TolseyError):
    """An account to which this cannot be granted."""

    code: ClassVar[str] = "grant_refused"


class RevocationUnknown(TolseyError):
    """A prefix id that is not revoked."""

    code: ClassVar[str] = "revocation_unknown"


class QuestionUnknown(TolseyError):
    """An id under which no call waits for approval."""

    code: ClassVar[str] = "question_unknown"


class HoldUnknown(TolseyError):
    """An id under which nothing is held or was charged."""

    code: ClassVar[str] = "hold_unknown"


class HoldRefused(TolseyError):
    """A hold with which this cannot be done."""

    code: ClassVar[str] = "hold_refused"


class Returned(NamedTuple):
    """What a void gave back, and what the hold was: `open`, or `unmetered`."""

    amount: Amount
    was: str


def noted(what: str, who: str, reason: str) -> str:
    """The note of an entry: `granted by alice: second quarter`."""
    return f"{what} by {who}" + (f": {reason}" if reason else "")


async def open_accounts(ledger: Ledger, accounts: Sequence[Account], note: str) -> None:
    """Write the accounts of a minted token. Raises `LedgerConflict` if the ledger has others under their ids."""
    for outcome in await ledger.write([Open(account, note) for account in accounts]) if accounts else ():
        if isinstance(outcome, Conflict):
            raise LedgerConflict(outcome.detail)


async def take(ledger: Ledger, charges: Sequence[Charge], note: str) -> str | Refusal | None:
    """Take what is minted or granted from the accounts of `mint-budget`; return the hold that it was taken with, None
    for nothing. At most one charge: of several, some could be granted and others not.
    """
    if len(charges) > 1:
        return Refusal("caveat_refused", "under a mint-budget a token is minted with a budget in one unit")
    for accounts, nano in charges:
        hold = f"{MINTING}{secrets.token_hex(8)}"
        events: list[Event] = [Reserve(hold, accounts, nano, note), Settle(hold, nano, note)]
        outcome = (await ledger.write(events))[0]
        if isinstance(outcome, Shortfall):
            return _short(outcome)
        if not isinstance(outcome, Granted):
            raise LedgerConflict(outcome.detail if isinstance(outcome, Conflict) else "the mint-budget cannot be used")
        return hold
    return None


async def put_back(ledger: Ledger, hold: str | None, note: str) -> None:
    """Undo `take`: what was to be minted or granted was not."""
    if hold is not None:
        await ledger.write([Annul(hold, note)])


def _short(short: Shortfall) -> Refusal:
    account = short.account
    return Refusal(
        "budget_exhausted",
        "the mint-budget has not that much left",
        link=account.label,
        prefix_id=account.id,
        unit=account.unit,
        limit=short.limit,
        spent=short.spent,
        held=short.held,
        resets_at=None if short.resets_at is None else format_time(short.resets_at),
    )


async def grant(ledger: Ledger, snapshot: Snapshot, account: str, more: Amount, *, who: str, reason: str) -> Amount:
    """Raise the limit of an account; return what it has left. Raises `AccountUnknown` or `GrantRefused`."""
    check_grant(more)
    outcome = (await ledger.write([Grant((account, more.unit), more.nano, noted("granted", who, reason))]))[0]
    if isinstance(outcome, Conflict):
        raise GrantRefused(outcome.detail)
    if isinstance(outcome, Unknown):
        units = await asyncio.to_thread(_units_of, snapshot, account)
        if units:
            raise GrantRefused(f"account {account} is in {' and '.join(units)}, not in {more.unit}")
        raise AccountUnknown(f"no account has the prefix id {account}; `tolsey trail` lists them")
    if not isinstance(outcome, Granted):
        raise AssertionError(f"a grant cannot end in {outcome}")
    return Amount(outcome.remaining or 0, more.unit)


def check_grant(more: Amount) -> None:
    """Raise `GrantRefused` for an amount that cannot be granted."""
    if more.unit == "call" and more.nano % NANO:
        raise GrantRefused(f"{more} is not a whole number of calls")


def _units_of(snapshot: Snapshot, account: str) -> list[str]:
    with snapshot:
        return sorted(row.unit for row in snapshot.accounts() if row.id == account)


async def void(ledger: Ledger, snapshot: Snapshot, hold: str, *, who: str, reason: str) -> Returned:
    """Give back all that an open hold holds, or an unmetered one was charged; the call is not counted.

    Raises `HoldUnknown` or `HoldRefused`.
    """
    note = noted("voided", who, reason)
    known = await _known(ledger, hold)
    if known.resolution is None:
        _check((await ledger.write([Void(hold, note)]))[0], hold)
        return Returned(Amount(known.amount, unit_of(known)), "open")
    await asyncio.to_thread(_check_unmetered, known, snapshot)
    _check((await ledger.write([Annul(hold, note)]))[0], hold)
    return Returned(Amount(known.settled - known.refunded, unit_of(known)), "unmetered")


def _check_unmetered(hold: Hold, snapshot: Snapshot) -> None:
    """Refuse to void a hold whose call is known to have been served, or that was voided before."""
    if hold.resolution == "void" or hold.annulled:
        raise HoldRefused(f"hold {hold.id} was voided before")
    with snapshot:
        notes = [entry.note for entry in snapshot.entries_of(hold.id) if entry.kind == hold.resolution]
    if hold.resolution == "settle" and not any(note.startswith("unmetered") for note in notes):
        raise HoldRefused(
            f"the call of hold {hold.id} was served, and charged {Amount(hold.settled, unit_of(hold))}; `tolsey refund`"
            " gives money back"
        )


async def refund(ledger: Ledger, hold: str, wanted: Amount | None, *, who: str, reason: str) -> Amount:
    """Give back `wanted` of what a hold was charged (None: all that is left of it); return what was given back.

    Raises `HoldUnknown` or `HoldRefused`.
    """
    known = await _known(ledger, hold)
    unit = unit_of(known)
    if known.resolution is None:
        raise HoldRefused(f"hold {hold} is still open; `tolsey void` gives it back")
    if not known.chain:
        raise HoldRefused(f"hold {hold} is of a free call: no money was charged")
    if wanted is not None and wanted.unit != unit:
        raise HoldRefused(f"hold {hold} was charged in {unit}, not in {wanted.unit}")
    left = known.settled - known.refunded
    if not left or (wanted is not None and not 0 < wanted.nano <= left):
        raise HoldRefused(
            f"hold {hold} was charged {Amount(known.settled, unit)}, of which {Amount(left, unit)} can be refunded"
        )
    nano = None if wanted is None else wanted.nano
    outcome = (await ledger.write([Refund(hold, nano, noted("refunded", who, reason))]))[0]
    return Amount(_check(outcome, hold).amount, unit)


async def revoke(ledger: Ledger, handle: Handle, *, who: str, reason: str) -> Revised:
    """Refuse every token that holds a Link, or a prefix, and all that is made from one."""
    return await ledger.revise(Revoke(handle.id, handle.expires, noted("revoked", who, reason)))


async def unrevoke(ledger: Ledger, prefix_id: str, *, who: str, reason: str) -> Revocation:
    """Take a revocation back; return it as it stood. Raises `RevocationUnknown`."""
    before = (await ledger.revise(Unrevoke(prefix_id, noted("taken back", who, reason)))).revocation
    if before is None:
        raise RevocationUnknown(f"prefix id {prefix_id} is not revoked; `tolsey revoked` lists those that are")
    return before


async def answer(ledger: Ledger, question: str, *, granted: bool, who: str, reason: str) -> Asked:
    """Say yes or no to a call that waits for approval; return it as it stood. Raises `QuestionUnknown`."""
    before = await ledger.answer(
        question, granted=granted, note=noted("approved" if granted else "denied", who, reason)
    )
    if before is None:
        raise QuestionUnknown(f"no question is called {question}; `tolsey approvals` lists those that are open")
    now = await ledger.asked(question)
    if before.granted is not None or now is None or now.granted is None:
        raise QuestionUnknown(f"question {question} is not open any more: {before.note or 'nobody answered in time'}")
    return before


async def _known(ledger: Ledger, hold: str) -> Hold:
    known = await ledger.hold(hold)
    if known is None:
        raise HoldUnknown(
            f"the ledger has no hold {hold}. One that `tolsey compact` rolled up can no longer be voided or refunded"
        )
    return known


def unit_of(hold: Hold) -> str:
    """The unit of a hold's money, or `call` where it only counts a call."""
    return (hold.chain or hold.counters)[-1][1]


def _check(outcome: Outcome, hold: str) -> Resolved:
    """What was written. Raises `HoldRefused` where somebody else was faster."""
    match outcome:
        case Resolved():
            return outcome
        case Late(_, kind):
            raise HoldRefused(f"hold {hold} was resolved meanwhile ({kind}); try again")
        case Conflict(detail):
            raise HoldRefused(detail)
    raise AssertionError(f"a hold that was found cannot end in {outcome}")
