"""What the admin API shows: delegation tree, open holds, report, keys, config, and the caller itself."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from tolsey.admin import acts, models
from tolsey.admin.access import Admin, Place, may
from tolsey.admin.problems import Wrong
from tolsey.ledger.report import DIMENSIONS, OBSERVE, Groups, document, read_dimensions
from tolsey.ledger.windows import HOUR
from tolsey.store.by_hand import AccountUnknown
from tolsey.store.chains import open_holds
from tolsey.store.contract import Snapshot
from tolsey.store.minting import KIND_NAMES
from tolsey.store.revocations import standing
from tolsey.store.tallies import tallies
from tolsey.store.trails import TrailRow, Wanted, trail
from tolsey.token.admin import actions_of
from tolsey.token.admin_caveats import ACTIONS
from tolsey.token.caveats import SECOND, Expires, format_time
from tolsey.units import format_nano

MAX_ROWS: Final = 10_000
"""How many accounts or holds one answer has at most."""

REPORT_DAYS: Final = 7
MAX_REPORT_DAYS: Final = 90

_OF_TRAIL: Final = ("prefix_id", "label", "unit", "since", "until", "all", "depth", "offset", "limit")

_DIMENSION: Final = f"({'|'.join(DIMENSIONS)})"
_BY: Final = f"^{_DIMENSION}(,{_DIMENSION})*$"

router = APIRouter(prefix="/api")

Rows = Annotated[int, Query(ge=1, le=MAX_ROWS, description="How many there are in the answer at most.")]


@router.get("/me", response_model=models.Me)
async def me(admin: Annotated[Admin, Depends(may(None))]) -> object:
    """Say what the admin token amounts to."""
    chain = admin.chain
    ends = [term.meaning.at for term in chain.terms if isinstance(term.meaning, Expires)]
    return {
        "who": admin.who,
        "label": chain.links[-1].label,
        "prefix_id": chain.prefix_ids[-1],
        "links": [{"id": link.prefix_id, "label": link.label} for link in chain.links[1:]],
        "caveats": [term.text for term in chain.terms],
        "actions": actions_of(chain, ACTIONS),
        "expires": format_time(min(ends)) if ends else None,
    }


@router.get("/trail", response_model=models.Trail)
async def read_trail(
    office: Place,
    _: Annotated[Admin, Depends(may("trail", *_OF_TRAIL))],
    prefix_id: Annotated[models.PrefixId | None, Query(description="Only this account and those below it.")] = None,
    label: Annotated[
        str | None,
        Query(min_length=1, max_length=256, description="Only these levels, those above and below; * for any text."),
    ] = None,
    unit: Annotated[str | None, Query(min_length=1, max_length=32)] = None,
    since: Annotated[
        AwareDatetime | None, Query(description="Only what was used since, and what it spent within.")
    ] = None,
    until: AwareDatetime | None = None,
    every: Annotated[bool, Query(alias="all", description="Also accounts that count one approved call.")] = False,
    depth: Annotated[int | None, Query(ge=0, le=32, description="How many levels below the first.")] = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Rows = 1000,
) -> object:
    """Show the delegation tree: who opened each level, its limit, what it spent, holds and refused, when it was seen.

    `at` is the ledger's time of the answer: asked for again with it as `since`, what was used meanwhile is shown.
    """
    wanted = Wanted(
        prefix_id, label, unit, None if since is None else _nano(since), None if until is None else _nano(until), every
    )

    def page(snapshot: Snapshot) -> tuple[list[TrailRow], bool]:
        found: Iterator[TrailRow] = trail(snapshot, wanted)
        rows = (row for row in found if depth is None or row.depth <= depth)
        taken = list(islice(rows, offset, offset + limit + 1))
        return taken[:limit], len(taken) > limit

    at = format_time(office.now())
    rows, more = await office.read(page)
    if not rows and prefix_id is not None and not offset and wanted == Wanted(prefix_id):
        raise AccountUnknown(f"no account has the prefix id {prefix_id}")
    return {
        "accounts": [
            row.to_json() | {"left": None if row.left is None else format_nano(row.left), "depth": row.depth}
            for row in rows
        ],
        "next": offset + limit if more else None,
        "at": at,
    }


@router.get("/holds", response_model=models.Holds)
async def read_holds(office: Place, _: Annotated[Admin, Depends(may("holds", "limit"))], limit: Rows = 1000) -> object:
    """List the open holds, oldest first: money that is set aside for calls under way."""

    def first(snapshot: Snapshot) -> list[dict[str, object]]:
        with snapshot:
            return [hold.to_json() for hold in islice(open_holds(snapshot), limit + 1)]

    found = await office.read(first)
    return {"holds": found[:limit], "more": len(found) > limit}


@router.get("/revoked", response_model=models.Revocations)
async def read_revoked(office: Place, _: Annotated[Admin, Depends(may("revoked"))]) -> object:
    """List what is revoked, oldest first."""
    return {"revocations": [acts.revocation(each) for each in await office.read(standing)]}


@router.get("/approvals", response_model=models.Questions)
async def read_questions(office: Place, _: Annotated[Admin, Depends(may("approvals"))]) -> object:
    """List the calls that wait for somebody's approval, oldest first."""
    return {"approvals": await office.read(acts.questions)}


@router.get("/report")
async def read_report(
    office: Place,
    _: Annotated[Admin, Depends(may("report", "by", "since", "until", "agent"))],
    by: Annotated[
        str, Query(max_length=256, pattern=_BY, description="What calls are told apart by, with commas.")
    ] = "agent",
    since: Annotated[AwareDatetime | None, Query(description=f"{REPORT_DAYS} days ago, if left out.")] = None,
    until: AwareDatetime | None = None,
    agent: Annotated[str | None, Query(max_length=256, description="Only the calls of this agent.")] = None,
) -> dict[str, object]:
    """Show who called what at what cost, and what enforcement would have refused. Hours are whole ones, UTC."""
    dimensions = read_dimensions([by])
    now = datetime.fromtimestamp(office.now() // SECOND, UTC)
    end = -(-_nano(until or now) // HOUR)
    begin = end - REPORT_DAYS * 24 if since is None else _nano(since) // HOUR
    if end - begin > MAX_REPORT_DAYS * 24:
        raise Wrong("request_invalid", f"a report goes over {MAX_REPORT_DAYS} days at most")
    groups, refusals = Groups(dimensions), Groups(["code", "agent", "verified"])

    def add_up(snapshot: Snapshot) -> None:
        with snapshot:
            for hour, key, counts in tallies(snapshot, begin, end):
                if agent in (None, key.agent):
                    groups.add(hour, key, counts)
                    if key.mode == OBSERVE and key.code:
                        refusals.add(hour, key, counts)

    await office.read(add_up)
    return {"since": format_time(begin * HOUR), "until": format_time(end * HOUR), **document(groups, refusals)}


def _nano(at: datetime) -> int:
    return max(0, int(at.timestamp())) * SECOND


@router.get("/keys", response_model=models.Keys)
async def read_keys(office: Place, _: Annotated[Admin, Depends(may("keys"))]) -> object:
    """List the root keys by kind, oldest first. Their secrets are never shown."""
    keyring = office.keys.keyring
    return {
        "keys": [
            {"id": key_id, "kind": name, "current": key_id == keyring.key_ids(kind)[-1]}
            for kind, name in KIND_NAMES.items()
            for key_id in keyring.key_ids(kind)
        ]
    }


@router.get("/config", response_model=models.State)
async def read_config(office: Place, _: Annotated[Admin, Depends(may("config"))]) -> object:
    """Show the config that is in use, without its secrets."""
    return office.state()
