"""Two gateways, an upstream, and a line to the ledger that can break: every step that there can be.

Each step is atomic, and any that is enabled may be the next one. A gateway's memory is what it loses when it crashes.
"""

from collections.abc import Iterator
from typing import NamedTuple

from proofs.ledger import ACCOUNTS, CALLS, CHILD, ROOT, Event, Ledger, Outcome, apply, grant, put, read

DUE, MAY = True, False
"""A due step comes sooner or later. One that may come is up to clients, the upstream, an operator or bad luck."""

NAMES = "ABC"
NOT_SENT, SENT = -1, 0
"""What `served` says of a call that did not reach the upstream, or did; from 1 on: served, and worth that much."""


class Group(NamedTuple):
    """Events on their way to the ledger, to be written together or not at all, under an id of their own."""

    id: int
    owner: int
    events: tuple[Event, ...]
    seen: Ledger | None = None


class Gateway(NamedTuple):
    """What a gateway has in memory, beside its calls: the group it waits for, and the answer on its way back.

    `lost`: the line broke meanwhile; it does not know whether the group was written, or will be. `fenced`: it was told
    that somebody took it for dead.
    """

    owner: int
    group: Group | None = None
    answer: tuple[Outcome, ...] | None = None
    lost: bool = False
    fenced: bool = False


class Call(NamedTuple):
    """What its gateway knows of a call; `held` is how much it knows to be on disk for it.

    new → asked → granted → sent (→ more → rest | cut) → heard | silent → over; or granted → unsent → over.
    """

    phase: str = "new"
    held: int = 0


class State(NamedTuple):
    """Everything. `network` has the groups that were sent and that the ledger has neither written nor dropped."""

    ledger: Ledger = Ledger()
    gateways: tuple[Gateway, ...] = (Gateway(1), Gateway(2))
    calls: tuple[Call, ...] = (Call(),) * len(CALLS)
    served: tuple[int, ...] = (NOT_SENT,) * len(CALLS)
    network: tuple[Group, ...] = ()
    faults: int = 0


Step = tuple[bool, str, State]


class System(NamedTuple):
    """What is to be explored: the calls that clients may ask for, how often something may fail, how much an operator
    may grant, and the bug that is built in.
    """

    asked: str
    faults: int
    grants: int = 0
    bug: str = ""

    def start(self) -> State:
        """Nothing was asked for yet."""
        return State(faults=self.faults)

    def steps(self, s: State) -> Iterator[Step]:
        """Every step that can be next: whether it is due, what is done, and the state after it."""
        for call in range(len(CALLS)):
            yield from self._serve(s, call)
        for number in range(len(s.gateways)):
            yield from self._write(s, number)
            if s.faults:
                yield from self._fail(s, number)
        for group in s.network:
            yield from self._commit(s, group)
        yield from self._keep_house(s)

    def _serve(self, s: State, call: int) -> Iterator[Step]:
        """A call from the client to the upstream and back."""
        name, plan, (phase, held) = NAMES[call], CALLS[call], s.calls[call]
        gateway, served = s.gateways[plan.gateway], s.served[call]

        def to(phase: str, served: int = served) -> State:
            return s._replace(calls=put(s.calls, call, Call(phase, held)), served=put(s.served, call, served))

        if phase == "new" and name in self.asked:
            yield MAY, f"a client asks for {name}", to("asked")
        if phase == "granted" and not gateway.fenced:
            yield DUE, f"{name} is forwarded", to("sent", SENT)
        if phase == "granted":
            yield DUE, f"{name} cannot be sent, or its client has gone", to("unsent")
        if phase == "asked" and gateway.group and served == NOT_SENT and self.bug == "forward-before-commit":
            yield DUE, f"{name} is forwarded before its group is known to be written", to("asked", SENT)
        if served == SENT:
            yield MAY, f"the upstream serves {name}", to(phase, plan.cost)
        if phase == "rest" and served == plan.cost:
            yield MAY, f"the upstream serves the rest of {name}", to(phase, plan.cost + plan.more)
        if phase == "sent" and served == plan.cost and plan.more:
            yield MAY, f"{name} outgrows its hold", to("more")
        if served > 0 and served == {"sent": plan.cost, "rest": plan.cost + plan.more}.get(phase):
            yield DUE, f"the gateway hears that {name} was served, for {served}", to("heard")
        if phase in ("sent", "rest"):
            yield DUE, f"the gateway hears nothing of {name} in time", to("silent")

    def _event(self, s: State, call: int) -> Event | None:
        """What the gateway wants to write about a call: RULES.md M6 and M7."""
        plan, (phase, held) = CALLS[call], s.calls[call]
        if phase == "silent" and self.bug == "void-after-sending":
            phase = "unsent"
        match phase:
            case "asked":
                return Event("reserve", call, plan.amount)
            case "more":
                return Event("extend", call, plan.more)
            case "unsent":
                return Event("void", call)
            case "heard":
                return Event("settle", call, s.served[call])
            case "silent" | "cut":
                return Event("settle", call, held)
        return None

    def _write(self, s: State, number: int) -> Iterator[Step]:
        """A gateway and its one group at a time; resolutions stand first in it."""
        gateway = s.gateways[number]
        if gateway.group is None and gateway.fenced:
            yield DUE, f"gateway {number} begins anew", _with(s, number, Gateway(gateway.owner + 2))
        elif gateway.group is None:
            wanted = [self._event(s, call) for call, plan in enumerate(CALLS) if plan.gateway == number]
            events = sorted(filter(None, wanted), key=lambda event: event.kind in ("reserve", "extend"))
            if events:
                seen = s.ledger if self.bug == "decide-before-the-lock" else None
                group = Group(min({*range(1, 9)} - _ids(s)), gateway.owner, tuple(events), seen)
                said = ", ".join(f"{kind} {NAMES[call]}" + f" {amount}" * (amount > 0) for kind, call, amount in events)
                sent = s._replace(network=tuple(sorted((*s.network, group))))
                waiting = gateway._replace(group=group)
                yield DUE, f"gateway {number} sends group {group.id}: {said}", _with(sent, number, waiting)
        elif gateway.lost:
            yield from self._after_lost_answer(s, number, gateway, gateway.group)
        elif gateway.answer is not None:
            yield DUE, f"gateway {number} has its answer", self._take_answer(s, number, gateway.group, gateway.answer)

    def _take_answer(self, s: State, number: int, group: Group, answer: tuple[Outcome, ...]) -> State:
        calls, fenced = s.calls, False
        for (kind, call, amount), (word, figure) in zip(group.events, answer, strict=True):
            held = calls[call].held + amount
            if kind == "reserve":
                now = Call("granted", held) if word == "granted" else Call("over")
            elif kind == "extend":
                now = Call("rest", held) if word == "granted" else Call("cut", calls[call].held)
            else:
                now = Call("over")
                # One that is late under an older name says nothing about the present one.
                fenced = fenced or (word == "late" and figure == group.owner)
            calls = put(calls, call, now)
        return _with(s._replace(calls=calls), number, Gateway(group.owner, fenced=fenced))

    def _after_lost_answer(self, s: State, number: int, gateway: Gateway, group: Group) -> Iterator[Step]:
        """RULES.md L4: the group's id is written. If it is there, the group was; if not, it never can be."""
        found = group.id in s.ledger.groups
        ledger = s.ledger
        if self.bug != "no-tombstone":
            ledger = ledger._replace(groups=ledger.groups | {group.id})
        for retry in (False, True):
            calls = s.calls
            for kind, call, _ in group.events:
                if kind == "extend":
                    calls = put(calls, call, Call("cut", calls[call].held))
                elif kind == "reserve" and not retry:
                    # An earlier try may be on disk even if this one is not, and a void of nothing does no harm.
                    void = found or self.bug != "void-only-if-found"
                    calls = put(calls, call, Call("unsent" if void else "over"))
                elif kind != "reserve" and found:
                    calls = put(calls, call, Call("over"))
            after = _with(s._replace(ledger=ledger, calls=calls), number, Gateway(gateway.owner))
            says = f"{'finds' if found else 'does not find'} its group and {'tries again' if retry else 'gives up'}"
            yield DUE, f"gateway {number} {says}", after

    def _commit(self, s: State, group: Group) -> Iterator[Step]:
        """The ledger writes a group, at once and whole. One for which nobody waits any more may also never come."""
        sent = s._replace(network=tuple(each for each in s.network if each is not group))
        ledger, answer = s.ledger, []
        for event in group.events:
            ledger, outcome = apply(ledger, event, group.owner, self.bug, group.seen)
            answer.append(outcome)
        after = sent._replace(ledger=ledger._replace(groups=ledger.groups | {group.id}))
        for number, gateway in enumerate(s.gateways):
            if gateway.group and gateway.group.id == group.id and not gateway.lost:
                answered = gateway._replace(answer=tuple(answer))
                yield DUE, f"the ledger writes group {group.id}", _with(after, number, answered)
                return
        yield DUE, f"the ledger writes group {group.id}, late", _tidy(after)
        yield DUE, f"group {group.id} never comes", _tidy(sent)

    def _fail(self, s: State, number: int) -> Iterator[Step]:
        """Bad luck, so many times."""
        gateway = s.gateways[number]
        s = s._replace(faults=s.faults - 1)
        if gateway.group and not gateway.lost:
            yield MAY, f"gateway {number} loses its answer", _with(s, number, gateway._replace(answer=None, lost=True))
        mine = [plan.gateway == number and was.phase != "new" for plan, was in zip(CALLS, s.calls, strict=True)]
        calls = tuple(Call("over") if gone else was for gone, was in zip(mine, s.calls, strict=True))
        if calls != s.calls:
            crashed = _with(s._replace(calls=calls), number, Gateway(gateway.owner + 2))
            yield MAY, f"gateway {number} crashes and starts again", crashed
        if _open(s.ledger, gateway.owner):
            yield MAY, f"gateway {number} is taken for dead, and lives", self._expire(s, gateway.owner)

    def _expire(self, s: State, owner: int) -> State:
        ledger = s.ledger
        for call in _open(s.ledger, owner):
            ledger, _ = apply(ledger, Event("expire", call), 0, self.bug)
        return s._replace(ledger=ledger)

    def _keep_house(self, s: State) -> Iterator[Step]:
        """What other processes and an operator do to the ledger."""
        holds = [hold for hold in map(read, s.ledger.journal) if hold]
        dead = {hold.owner for hold in holds if not hold.resolution} - {gateway.owner for gateway in s.gateways}
        if self.bug == "sweep-once":
            dead -= {hold.owner for hold in holds if hold.resolution == "expire"}
        for owner in sorted(dead):
            yield DUE, f"what dead owner {owner} holds expires", self._expire(s, owner)
        for call, hold in enumerate(map(read, s.ledger.journal)):
            if hold and hold.resolution == "expire" and not hold.annulled:
                ledger, _ = apply(s.ledger, Event("annul", call), 0, self.bug)
                yield MAY, f"an operator annuls {NAMES[call]}", s._replace(ledger=ledger)
        for account in (ROOT, CHILD) if sum(s.ledger.grants) < self.grants else ():
            granted = s._replace(ledger=grant(s.ledger, account, 1))
            yield MAY, f"an operator grants 1 to {ACCOUNTS[account]}", granted


def _open(ledger: Ledger, owner: int) -> list[int]:
    holds = enumerate(map(read, ledger.journal))
    return [call for call, hold in holds if hold and hold.owner == owner and not hold.resolution]


def _with(s: State, number: int, gateway: Gateway) -> State:
    return _tidy(s._replace(gateways=put(s.gateways, number, gateway)))


def _ids(s: State) -> set[int]:
    return {group.id for group in (*s.network, *(gateway.group for gateway in s.gateways)) if group}


def _tidy(s: State) -> State:
    """Leave out what can have no effect any more: a group whose id is in the ledger (its unique key refuses it, written
    or tombstone), and then an id that nobody will ask for.
    """
    if not s.ledger.groups:
        return s
    s = s._replace(network=tuple(group for group in s.network if group.id not in s.ledger.groups))
    kept = s.ledger.groups & _ids(s)
    return s if kept == s.ledger.groups else s._replace(ledger=s.ledger._replace(groups=kept))
