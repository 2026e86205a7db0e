"""What observe mode saw goes to the ledger, and what became of every call into the tallies.

A call is counted once its outcome is known: an observed one when the ledger has said what it would have met. Calls
without a token that was verified leave no entry of their own, but for one line a minute that tells how many there were
(a stranger cannot fill the journal).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tolsey.gateway.record import CallRecord
from tolsey.gateway.routes import Route
from tolsey.ledger.events import Conflict, Granted, Observe, Observed, Outcome, RateLimited, Shortfall
from tolsey.ledger.tallies import MAX_TEXT, OTHER, Tallies, TallyKey, shape
from tolsey.store.book import Book
from tolsey.store.tallies import refused_row, tally_row
from tolsey.token.chain import Chain
from tolsey.token.tags import write_tags

WRITE_SECONDS: Final = 1.0
"""How often what was counted is written."""

SAMPLE_SECONDS: Final = 60.0
"""How often a line is written about calls that leave none."""


class Tallying:
    """Counts calls that are over, for the process that the ledger is to know as `source`. `now` returns nanoseconds."""

    def __init__(self, book: Book, source: str, now: Callable[[], int]) -> None:
        self._book = book
        self._source = source
        self._now = now
        self._tallies = Tallies()
        self._armed = False
        self._keys: dict[tuple[str, ...], TallyKey] = {}
        self._strangers: dict[str, tuple[int, str]] = {}
        self._loop = asyncio.get_running_loop()

    def over(self, records: Sequence[CallRecord]) -> None:
        """Count these calls; refusals that no verified token met are left to the metrics."""
        for record in records:
            route = record.route
            if route is None or record.own:
                continue
            if record.refusal is not None and record.refusal.prefix_id is not None and record.chain is not None:
                self._arm()
                account = _account_of(record.chain, record.refusal.prefix_id)
                self._tallies.refuse(account, record.refusal.code, at=record.at)
            if record.observe is not None:
                accounts = record.observe.accounts or record.observe.counters
                if record.observed and not accounts:
                    self._stranger(record, record.observed)
                self._book.observe(record.observe, partial(self._seen, record, route)) if accounts else self._count(
                    record, route, record.observed or ""
                )
            elif record.observed is not None or record.links or record.forwarded:
                code = record.observed or (record.refusal.code if record.refusal is not None else "")
                self._count(record, route, code)

    def flush(self) -> None:
        """Hand over what was counted."""
        self._armed = False
        self._keys.clear()
        rows = [tally_row(self._source, hour, key, counts) for hour, key, counts in self._tallies.take()]
        rows += [refused_row(self._source, *each) for each in self._tallies.take_refused()]
        if rows:
            self._book.tally(rows)

    def _seen(self, record: CallRecord, route: Route, outcome: Outcome | None) -> None:
        verdict = outcome.verdict if isinstance(outcome, Observed) else None
        code = record.observed or ""
        if not code and verdict is not None and not isinstance(verdict, Granted):
            code = _code(verdict, record.observe)
        self._count(record, route, code)

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_later(WRITE_SECONDS, self.flush)

    def _count(self, record: CallRecord, route: Route, code: str) -> None:
        self._arm()
        self._tallies.count(
            self._key(record, route, code),
            at=record.at,
            cost=record.nano or 0,
            failed=record.answered is None or record.answered >= 400,
            us=(record.ended - record.began) // 1000,
            held=record.quoted,
        )

    def _key(self, record: CallRecord, route: Route, code: str) -> TallyKey:
        """The key of a call, from memory where it is made of nothing but a Link, a route, a model and the config's
        prices.
        """
        if not record.links or record.observed is not None or record.tags:
            return _key(record, route, code)
        leaf, model = record.links[-1].prefix_id, _model(record)
        short = (leaf, *route.labels, route.upstream.name, record.method, model, record.tool, record.unit, code)
        key = self._keys.get(short)
        if key is None:
            key = self._keys[short] = _key(record, route, code)
        return key

    def _stranger(self, record: CallRecord, code: str) -> None:
        if not self._strangers:
            self._loop.call_later(SAMPLE_SECONDS, self.sample)
        count, first = self._strangers.get(code, (0, f"{record.method} {record.path[:200]} by {record.agent}"))
        self._strangers[code] = (count + 1, first)

    def sample(self) -> None:
        """Write down how many calls without an account would have been refused, and one of them."""
        strangers, self._strangers = self._strangers, {}
        for code, (count, first) in strangers.items():
            note = f"{count} calls would be refused: {code}, such as {first}"
            self._book.observe(Observe("", (), 0, 0, note), lambda outcome: None)


def _account_of(chain: Chain, prefix_id: str) -> str:
    """The account of the Link in which a prefix of a chain ends, under whose id the ledger has it."""
    if any(account.id == prefix_id for account in chain.accounts()):
        return prefix_id
    places = {name: place for place, name in enumerate(chain.prefix_ids)}
    begun = [n for n, link in enumerate(chain.links) if places[link.prefix_id] <= places.get(prefix_id, -1)]
    if not begun:
        return ""
    return next((b.prefix_id for b in chain.budgets if b.link == begun[-1]), chain.links[begun[-1]].prefix_id)


def _code(verdict: Outcome, event: Observe | None) -> str:
    match verdict:
        case Shortfall(account):
            return "calls_exhausted" if event is not None and account in event.counters else "budget_exhausted"
        case RateLimited():
            return "rate_limited"
        case Conflict():
            return "ledger_conflict"
    return "too_many_holds"


def _model(record: CallRecord) -> str:
    llm = record.llm
    return "" if llm is None else llm.listed or (OTHER if not record.links else (llm.model or "")[:MAX_TEXT])


def _key(record: CallRecord, route: Route, code: str) -> TallyKey:
    labels = [link.label for link in record.links if link.label is not None]
    observed = record.observed is not None
    return TallyKey(
        mode=route.mode.value,
        verified=bool(record.links),
        agent="/".join(labels)[:MAX_TEXT] or record.agent,
        team=record.team,
        tags=write_tags(record.tags),
        method=record.method,
        path=shape(record.path) if observed else route.pattern.text,
        route=route.pattern.text,
        upstream=route.upstream.name,
        model=_model(record),
        tool=(record.tool if record.links else OTHER)[:MAX_TEXT] if record.tool else "",
        unit=record.unit,
        code=code,
    )
