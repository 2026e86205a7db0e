"""Revocation: a prefix id is named, and from then on every token whose chain holds that prefix is refused.

A prefix id is the name of everything up to a caveat, so it stands in the chain of the token, of whatever is appended to
it, and of every child, made when and wherever: nothing that a holder adds leads around it (RULES.md T14). Naming the
prefix behind a caveat that the holder wrote last would not do: he drops that caveat and shows the rest. So of a token
the opening of a Link is revoked.
"""

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import ClassVar, Final, NamedTuple

from tolsey.errors import CaveatInvalid, Refusal, TolseyError
from tolsey.ledger.events import Entry, Kind
from tolsey.ledger.windows import DAY
from tolsey.token.caveats import Expires, parse_caveat
from tolsey.token.chain import Chain, parse_identifier
from tolsey.token.macaroon import Macaroon
from tolsey.token.verifier import Verifier
from tolsey.token.wire import Caveat

KEEP_NS: Final = DAY
"""How long a revocation is kept after every token that it is for has expired, in nanoseconds: a worker whose clock is
behind must not take what was revoked for good.
"""


class Revoke(NamedTuple):
    """Refuse every token with the prefix `id`. They all expire at `expires` (nanoseconds since the epoch) at the
    latest; None if that is not known. `note` says who wants it and why.
    """

    id: str
    expires: int | None
    note: str


class Unrevoke(NamedTuple):
    """Take the revocation of the prefix `id` back."""

    id: str
    note: str


class Revocation(NamedTuple):
    """A prefix that is revoked: since when, until when it matters (None: for ever), by which entry."""

    id: str
    since: int
    expires: int | None
    note: str
    entry: int


class Revised(NamedTuple):
    """What came of a change: whether anything was `changed`, and the revocation that stands, or stood until then."""

    changed: bool
    revocation: Revocation | None


def entry_of(change: Revoke | Unrevoke, stands: Revocation | None, *, at: int, owner: int) -> Entry | None:
    """The entry that a change makes at the ledger's time `at`, where `stands` is what there is under its prefix id;
    None where that is so already. A revocation is never made shorter.
    """
    if isinstance(change, Unrevoke):
        return None if stands is None else Entry(Kind.UNREVOKE, at, change.id, None, 0, owner, change.note)
    if stands is not None and _lasts(stands.expires, change.expires):
        return None
    return Entry(Kind.REVOKE, at, change.id, None, 0, owner, change.note, until=change.expires)


def _lasts(one: int | None, other: int | None) -> bool:
    """Whether what is kept until `one` is kept at least until `other`."""
    return one is None or (other is not None and one >= other)


def dropped_before(at: int) -> int:
    """Revocations that matter until this instant or an earlier one are dropped at the ledger's time `at`."""
    return at - KEEP_NS


def refusal_of(chain: Chain, revoked: Set[str]) -> Refusal | None:
    """Why a verified chain is refused if these prefix ids are revoked: the first from the root; None if none is."""
    if not revoked or revoked.isdisjoint(chain.prefix_ids):
        return None
    opened = {link.prefix_id: link for link in chain.links}
    link = chain.links[0]
    for prefix_id in chain.prefix_ids:
        link = opened.get(prefix_id, link)
        if prefix_id in revoked:
            break
    whose = "the token" if link.label is None else f"the token of {link.label}"
    return Refusal("token_revoked", f"{whose} was revoked", link=link.label, prefix_id=prefix_id)


class Handle(NamedTuple):
    """What a Link is revoked by: the prefix id of its opening, its number and label, and when every token that holds it
    has expired, by the `expires` that stand before it (nanoseconds since the epoch; None: never). `number` is None for
    a prefix id of which nothing more is known.
    """

    id: str
    number: int | None
    label: str | None
    expires: int | None


class LinkUnknown(TolseyError):
    """A number that no Link of a token has."""

    code: ClassVar[str] = "link_unknown"


def handle_of(macaroon: Macaroon, derived: Callable[[str, str], bytes | None], number: int | None = None) -> Handle:
    """What revokes the last Link of a token of any kind, or the one of a `number`: 0 is all that its minter and whoever
    came after him made of it. Discharges are not needed. `derived` returns the key of a kind and an id.

    Raises `TokenForged` for a token that no key of ours began, `TokenMalformed`, `LinkUnknown`.
    """
    kind = parse_identifier(macaroon.identifier).kind
    chain = Verifier(kind, partial(derived, kind)).verify_undischarged(macaroon.to_text())
    last = len(chain.links) - 1
    number = last if number is None else number
    if not 0 <= number <= last:
        raise LinkUnknown(f"the token has no Link {number}; its last is {last}")
    link = chain.links[number]
    before = macaroon.caveats[: chain.prefix_ids.index(link.prefix_id)]
    return Handle(link.prefix_id, number, link.label, _ends_at(before))


def _ends_at(caveats: Sequence[Caveat]) -> int | None:
    """The earliest `expires` among verified caveats."""
    ends = []
    for caveat in caveats:
        try:
            meaning = parse_caveat(caveat.cid) if caveat.vid is None else None
        except CaveatInvalid:
            continue
        if isinstance(meaning, Expires):
            ends.append(meaning.at)
    return min(ends, default=None)
