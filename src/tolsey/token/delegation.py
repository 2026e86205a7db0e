"""Handing on: which caveats to append, whether they are narrower than what is there, and what a token amounts to.

Offline and unverified by nature: only the gateway has the keys. Writing a caveat that is wider than its parent is
refused here because it is a mistake; had it been written, the narrower one would still hold.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tolsey.errors import CaveatInvalid, CaveatWider
from tolsey.token.admin_caveats import (
    Action,
    AdminMeaning,
    MintBudget,
    MintLabel,
    MintLifetime,
    MintScope,
    parser_of,
)
from tolsey.token.caveats import (
    SECOND,
    BudgetCaveat,
    Calls,
    Depth,
    Expires,
    Label,
    MaxPrice,
    Meaning,
    Method,
    Model,
    Network,
    Peer,
    RateCaveat,
    Scope,
    Upstream,
    format_time,
    glob_matches,
    parse_caveat,
)
from tolsey.token.l402 import read_identifier
from tolsey.token.macaroon import Macaroon, prefix_id
from tolsey.token.wire import LIMITS
from tolsey.units import Budget


def compose(
    *,
    label: str,
    nonce: str,
    scope: str | None = None,
    expires: str | None = None,
    budget: str | None = None,
    caveats: Sequence[str] = (),
    parse: "Callable[[bytes], Meaning | AdminMeaning]" = parse_caveat,
) -> list[str]:
    """The caveats of one Link: `label` first, `budget` last, so that the final prefix id is the account's (RULES.md
    T2).

    Each must be one that `parse` knows. Raises `CaveatInvalid`.
    """
    if not label.strip() or label != label.strip():
        raise CaveatInvalid("label: a label is not empty and has no white space around it")
    texts = [f"label = {label} {nonce}"]
    texts += [f"scope = {scope}"] if scope is not None else []
    texts += [f"expires = {expires}"] if expires is not None else []
    texts += caveats
    texts += [f"budget = {budget}"] if budget is not None else []
    budgets: list[str] = []
    others: list[str] = []
    for number, text in enumerate(texts):
        cid = text.encode("utf-8", "surrogatepass")
        meaning = parse(cid)
        if isinstance(meaning, Label) and number:
            raise CaveatInvalid("label: one Link has one label")
        if len(cid) > LIMITS.caveat_bytes:
            raise CaveatInvalid(f"a caveat has at most {LIMITS.caveat_bytes} bytes")
        (budgets if isinstance(meaning, BudgetCaveat | MintBudget) else others).append(text)
    return others + budgets


def narrow(parent: Macaroon, texts: Sequence[str]) -> Macaroon:
    """Append one Link's caveats to `parent`, refusing any that is wider. Raises `CaveatWider` or `CaveatInvalid`."""
    held = meanings(parent)
    parse = parser_of(parent.identifier)
    added = [parse(text.encode("utf-8")) for text in texts]
    left = min((links - used for links, used in _depths(held)), default=LIMITS.links) - 1
    if left < 0:
        raise CaveatWider("the parent may not be handed on: its depth allows no further Link")
    for text, meaning in zip(texts, added, strict=True):
        if isinstance(meaning, Depth) and any(isinstance(m, Depth) for m in held) and meaning.links > left:
            raise CaveatWider(f"{text!r} is wider than its parent: {left} Links may follow this one")
        for earlier in reversed(held):
            wider = _wider(meaning, earlier)
            if wider:
                raise CaveatWider(f"{text!r} is wider than its parent: {wider}")
    child = parent.attenuate(*texts)
    if len(child.caveats) > LIMITS.caveats:
        raise CaveatInvalid(f"a token has at most {LIMITS.caveats} caveats")
    if 1 + _count(Label, held + added) > LIMITS.links:
        raise CaveatInvalid(f"a token has at most {LIMITS.links} Links")
    if sum(_count(kind, held + added) for kind in (BudgetCaveat, Calls, RateCaveat)) > LIMITS.accounts:
        raise CaveatInvalid(f"a token has at most {LIMITS.accounts} budgets, calls and rates together")
    if len(child.serialize()) > LIMITS.token_bytes:
        raise CaveatInvalid(f"a token has at most {LIMITS.token_bytes} bytes")
    return child


def _count(kind: type[Meaning], meanings: "Sequence[Meaning | AdminMeaning]") -> int:
    return sum(isinstance(meaning, kind) for meaning in meanings)


def _depths(held: "Sequence[Meaning | AdminMeaning]") -> list[tuple[int, int]]:
    """For each `depth` caveat, the Links that it allows and those that follow it already."""
    return [(m.links, _count(Label, held[n:])) for n, m in enumerate(held) if isinstance(m, Depth)]


def meanings(macaroon: Macaroon) -> "list[Meaning | AdminMeaning]":
    """What the first-party caveats mean, in order; those that are not understood are left out."""
    parse = parser_of(macaroon.identifier)
    found = []
    for caveat in macaroon.caveats:
        if caveat.vid is None:
            try:
                found.append(parse(caveat.cid))
            except CaveatInvalid:
                continue
    return found


def _wider(new: Meaning | AdminMeaning, held: Meaning | AdminMeaning) -> str | None:
    """Why `new` would allow something that `held` does not; None if it is as narrow, or about something else."""
    match new, held:
        case BudgetCaveat(mine), BudgetCaveat(theirs):
            same = (mine.amount.unit, mine.period) == (theirs.amount.unit, theirs.period)
            return f"it has {theirs}" if same and mine.amount.nano > theirs.amount.nano else None
        case (Calls(number, period), Calls(most_, of)) | (RateCaveat(number, period), RateCaveat(most_, of)):
            return f"it has {held}" if period == of and number > most_ else None
        case MaxPrice(price), MaxPrice(most):
            return f"it has {most}" if price.unit == most.unit and price.nano > most.nano else None
        case Expires(at), Expires(before):
            return f"it expires {format_time(before)}" if at > before else None
        case (Scope(mine_), Scope(theirs_)) | (MintScope(mine_), MintScope(theirs_)):
            wide = [p.text for p in mine_ if not any(p.within(q) for q in theirs_)]
            return f"it has {' '.join(q.text for q in theirs_)}" if wide else None
        case (Method(names), Method(allowed)) | (Action(names), Action(allowed)):
            return f"it has {', '.join(allowed)}" if set(names) - set(allowed) else None
        case (
            (Upstream(globs), Upstream(allowed))
            | (Model(globs), Model(allowed))
            | (MintLabel(globs), MintLabel(allowed))
        ):
            wide = [g for g in globs if not any(_glob_within(g, a) for a in allowed)]
            return f"it has {' '.join(allowed)}" if wide else None
        case MintLifetime(span), MintLifetime(longest):
            return f"it has {longest // SECOND} seconds" if span > longest else None
        case MintBudget(limits), MintBudget(above):
            return _mints_more(limits, above)
        case Peer(networks), Peer(allowed_):
            wide_ = [n for n in networks if not any(_network_within(n, a) for a in allowed_)]
            return f"it has {' '.join(map(str, allowed_))}" if wide_ else None
    return None


def _mints_more(limits: Sequence[Budget], above: Sequence[Budget]) -> str | None:
    units = {budget.amount.unit for budget in above}
    theirs = {(budget.amount.unit, budget.period): budget.amount.nano for budget in above}
    for budget in limits:
        unit = budget.amount.unit
        if unit not in units or budget.amount.nano > theirs.get((unit, budget.period), budget.amount.nano):
            return f"it has {', '.join(map(str, above))}"
    return None


def _glob_within(glob: str, other: str) -> bool:
    """Whether all that `glob` means is surely meant by `other`; a `*` in `glob` is only matched by a `*`."""
    return glob_matches(other, glob)


def _network_within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # versions are equal


@dataclass(frozen=True, slots=True)
class UnverifiedLink:
    """A Link as it is written: its label and nonce, and its caveats' texts without the label."""

    label: str | None
    nonce: str | None
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a token says. Nothing of it is verified: only the gateway has the key.

    `prefix_id` names the whole token; the ids of its earlier prefixes cannot be known without the key. `budgets` are
    the least limits, one for each unit and period, `calls` and `rates` likewise; `expires` is the earliest end, RFC
    3339; `scope` and `method` are the alternatives of each caveat, all of which must allow a call; `problems` are the
    caveats that a gateway will refuse.
    """

    identifier: str
    prefix_id: str
    links: tuple[UnverifiedLink, ...]
    expires: str | None
    budgets: tuple[str, ...]
    calls: tuple[str, ...]
    rates: tuple[str, ...]
    max_prices: tuple[str, ...]
    scope: tuple[str, ...]
    method: tuple[str, ...]
    third_parties: tuple[str, ...]
    discharges: int
    problems: tuple[str, ...]
    verified: bool = False


def inspection(macaroon: Macaroon, discharges: Sequence[Macaroon] = ()) -> Inspection:
    """Say what a macaroon amounts to."""
    links: list[tuple[str | None, str | None, list[str]]] = [(None, None, [])]
    problems: list[str] = []
    third_parties: list[str] = []
    known: list[Meaning | AdminMeaning] = []
    parse = parser_of(macaroon.identifier)
    for caveat in macaroon.caveats:
        if caveat.vid is not None:
            place = (caveat.location or b"").decode("utf-8", "backslashreplace")
            third_parties.append(place)
            links[-1][2].append(f"third party: {place}")
            continue
        try:
            meaning = parse(caveat.cid)
        except CaveatInvalid as error:
            problems.append(f"{str(caveat)!r}: {error.detail}")
            links[-1][2].append(str(caveat))
            continue
        known.append(meaning)
        if isinstance(meaning, Label):
            links.append((meaning.name, meaning.nonce, []))
        else:
            links[-1][2].append(str(caveat))
    ends = [meaning.at for meaning in known if isinstance(meaning, Expires)]
    return Inspection(
        identifier=_identifier_text(macaroon.identifier),
        prefix_id=prefix_id(macaroon.signature),
        links=tuple(
            UnverifiedLink(label, nonce, tuple(texts))
            for number, (label, nonce, texts) in enumerate(links)
            if number or texts
        ),
        expires=format_time(min(ends)) if ends else None,
        budgets=tuple(
            _least(
                (str(m.budget), m.budget.amount.nano, (m.budget.amount.unit, m.budget.period))
                for m in known
                if isinstance(m, BudgetCaveat)
            )
        ),
        calls=tuple(_least((str(m), m.count, m.period) for m in known if isinstance(m, Calls))),
        rates=tuple(_least((str(m), m.calls, m.period) for m in known if isinstance(m, RateCaveat))),
        max_prices=tuple(
            _least((str(m.amount), m.amount.nano, m.amount.unit) for m in known if isinstance(m, MaxPrice))
        ),
        scope=tuple(" ".join(p.text for p in m.patterns) for m in known if isinstance(m, Scope)),
        method=tuple(", ".join(m.names) for m in known if isinstance(m, Method)),
        third_parties=tuple(third_parties),
        discharges=len(discharges),
        problems=tuple(problems),
    )


def _identifier_text(identifier: bytes) -> str:
    """An identifier for people; that of a paid token is not text."""
    paid = read_identifier(identifier)
    if paid is not None:
        return f"L402, payment hash {paid.hash}"
    return identifier.decode("utf-8", "backslashreplace")


def _least(amounts: Iterable[tuple[str, int, object]]) -> list[str]:
    least: dict[object, tuple[int, str]] = {}
    for text, nano, kind in amounts:
        if kind not in least or nano < least[kind][0]:
            least[kind] = (nano, text)
    return [text for _, text in least.values()]
