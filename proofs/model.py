"""A model of reserve, settle and expire, with crashes and retries, small enough that every state of it can be visited.

Two gateways share one ledger. Each of three calls wants some money of an account and of the one above it. Between any
two steps any other may come: a gateway dies, is taken for dead though it lives, or never hears what became of a commit
that goes on without it. What is proved is the protocol (RULES.md L2 to L4). The arithmetic in `tolsey/ledger/rules.py`
has tables and properties of its own; law 1 is about tokens, and not here.

`broken` names the rule that is left out, to see that an invariant falls without it; "" leaves out none.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

LIMITS: Final = {"root": 3, "left": 2, "right": 2}
"""What each account may spend."""

MAX_EPOCH: Final = 2
"""How often a gateway may begin as a new owner."""


class Wish(NamedTuple):
    """A call that will be made: by which gateway, on which accounts, for how much."""

    gateway: int
    chain: tuple[str, ...]
    amount: int


WISHES: Final = (Wish(0, ("root", "left"), 2), Wish(1, ("root", "right"), 2), Wish(0, ("root", "left"), 1))


class Call(NamedTuple):
    """One call.

    `phase` is what its gateway knows: new, waiting, doubt (the answer to the commit was lost), granted, sent, over; or
    gone, with the gateway. `commit` is its reserve's transaction: none, flying, held, short, never. `hold` is what the
    ledger has: none, open, settle, void, expire, annul, at a `cost`. `owner` is the epoch in which it was reserved.
    """

    phase: str = "new"
    commit: str = "none"
    hold: str = "none"
    cost: int = 0
    owner: int = 0
    sent: bool = False
    served: bool = False
    resolutions: int = 0


class State(NamedTuple):
    """The calls; each gateway's epoch (0: it is down); the epochs that were ended; spent and held of each account."""

    calls: tuple[Call, ...] = (Call(),) * len(WISHES)
    epochs: tuple[int, ...] = (1, 1)
    ended: frozenset[tuple[int, int]] = frozenset()
    spent: tuple[int, ...] = (0,) * len(LIMITS)
    held: tuple[int, ...] = (0,) * len(LIMITS)


Step = tuple[str, State]


def steps(state: State, broken: str) -> Iterator[Step]:
    """Every step that may come next."""
    for gateway, epoch in enumerate(state.epochs):
        # An owner is ended when it is dead, or when its lease has lapsed, and then its process may only be slow.
        for owner in range(1, MAX_EPOCH + 1):
            if (gateway, owner) not in state.ended and epoch in (0, owner):
                yield f"owner {gateway}.{owner} is ended", state._replace(ended=state.ended | {(gateway, owner)})
        if epoch:
            gone = [_lost(call) if WISHES[n].gateway == gateway else call for n, call in enumerate(state.calls)]
            yield f"gateway {gateway} dies", _begin(state, gateway, 0)._replace(calls=tuple(gone))
            if (gateway, epoch) in state.ended and epoch < MAX_EPOCH:
                yield f"gateway {gateway} begins anew", _begin(state, gateway, epoch + 1)
    for n, call in enumerate(state.calls):
        if call.commit == "flying":
            yield f"the reserve of call {n} is committed", _commit(state, n, broken)
        if call.sent and not call.served:
            yield f"the upstream serves call {n}", _put(state, n, served=True)
        if call.hold == "open" and (WISHES[n].gateway, call.owner) in state.ended:
            yield f"call {n} expires", _resolve(state, n, "expire", WISHES[n].amount, broken)
        if call.hold == "expire":
            yield f"an operator annuls call {n}", _move(_put(state, n, hold="annul", cost=0), n, 0, -call.cost)
        if state.epochs[WISHES[n].gateway]:
            yield from _steps_of_call(state, n, call, broken)


def _steps_of_call(state: State, n: int, call: Call, broken: str) -> Iterator[Step]:
    """What a living gateway may do with a call."""
    over = _put(state, n, phase="over")
    match call.phase:
        case "new":
            owner = state.epochs[WISHES[n].gateway]
            yield f"call {n} asks", _put(state, n, phase="waiting", commit="flying", owner=owner)
        case "waiting":
            yield f"the answer about call {n} is lost", _put(state, n, phase="doubt")
            if call.commit == "held" or broken == "a call is sent before its commit":
                yield f"call {n} is granted", _put(state, n, phase="granted")
            elif call.commit != "flying":
                yield f"call {n} is refused", over
        case "doubt" if call.commit == "flying":
            # The tombstone and the late commit meet at a unique key, and one of them is first: here the tombstone.
            never = call.commit if broken == "no tombstone is set" else "never"
            yield f"the doubt about call {n} is settled", _put(over, n, commit=never)
        case "doubt":
            yield f"the doubt about call {n} is settled", _resolve(over, n, "void", 0, broken)
        case "granted":
            yield f"call {n} is sent", _put(state, n, phase="sent", sent=True)
            yield f"the upstream of call {n} cannot be reached", _resolve(over, n, "void", 0, broken)
        case "sent":
            kind, cost = ("void", 0) if broken == "a call that was sent is voided" else ("settle", WISHES[n].amount)
            yield f"call {n} breaks off", _resolve(over, n, kind, cost, broken)
            if call.served:
                yield f"call {n} is settled at 1", _resolve(over, n, "settle", 1, broken)


def _commit(state: State, n: int, broken: str) -> State:
    """The reserve of a call in the ledger: all accounts or none, and nothing for an owner that was ended."""
    wish = WISHES[n]
    if (wish.gateway, state.calls[n].owner) in state.ended:
        return _put(state, n, commit="never")
    looked_at = wish.chain[:1] if broken == "only the root is looked at" else wish.chain
    used = dict(zip(LIMITS, map(sum, zip(state.spent, state.held, strict=True)), strict=True))
    busy = broken == "an account that is busy refuses" and any(state.held)
    if busy or any(used[name] + wish.amount > LIMITS[name] for name in looked_at):
        return _put(state, n, commit="short")
    return _move(_put(state, n, commit="held", hold="open"), n, wish.amount, 0, broken)


def _resolve(state: State, n: int, kind: str, cost: int, broken: str) -> State:
    """A resolution in the ledger: the first closes the hold, and a later one changes nothing."""
    call = state.calls[n]
    if call.hold == "none" or (call.hold != "open" and broken != "a hold is resolved again"):
        return state
    back = 0 if broken == "a void returns nothing" and kind == "void" else -WISHES[n].amount
    return _move(_put(state, n, hold=kind, cost=cost, resolutions=call.resolutions + 1), n, back, cost)


def _move(state: State, n: int, held: int, spent: int, broken: str = "") -> State:
    """Add to what is held and spent on every account of a call."""
    chain = WISHES[n].chain[:1] if broken == "only the root is charged" else WISHES[n].chain
    return state._replace(
        held=tuple(before + held * (name in chain) for name, before in zip(LIMITS, state.held, strict=True)),
        spent=tuple(before + spent * (name in chain) for name, before in zip(LIMITS, state.spent, strict=True)),
    )


def _put(state: State, n: int, **changes: object) -> State:
    changed = state.calls[n]._replace(**changes)  # type: ignore[arg-type]  # names and types are those of Call
    return state._replace(calls=(*state.calls[:n], changed, *state.calls[n + 1 :]))


def _begin(state: State, gateway: int, epoch: int) -> State:
    return state._replace(epochs=tuple(epoch if n == gateway else e for n, e in enumerate(state.epochs)))


def _lost(call: Call) -> Call:
    return call if call.phase in ("new", "over") else call._replace(phase="gone")


def law_2(state: State) -> bool:
    """For every account at every instant: spent + held <= limit."""
    stands = zip(LIMITS.values(), state.spent, state.held, strict=True)
    return all(spent + held <= limit for limit, spent, held in stands)


def entries_equal_balances(state: State) -> bool:
    """What the holds add up to is what the accounts stand at."""
    for name, spent, held in zip(LIMITS, state.spent, state.held, strict=True):
        charged = [(WISHES[n].amount, call) for n, call in enumerate(state.calls) if name in WISHES[n].chain]
        if spent != sum(call.cost for _, call in charged):
            return False
        if held != sum(amount for amount, call in charged if call.hold == "open"):
            return False
    return True


def resolved_once(state: State) -> bool:
    """A hold is resolved at most once."""
    return all(call.resolutions <= 1 for call in state.calls)


def forwarded_is_on_disk(state: State) -> bool:
    """A call that was sent to the upstream has its hold in the ledger."""
    return all(call.hold != "none" for call in state.calls if call.sent)


def served_is_charged(state: State) -> bool:
    """A call that the upstream served is never given back, unless an operator says so."""
    return all(call.hold not in ("none", "void") for call in state.calls if call.served)


def no_phantom(state: State) -> bool:
    """Every open hold has somebody who will close it: its gateway, or whoever finds that its owner is dead."""
    return all(
        call.phase in ("waiting", "doubt", "granted", "sent")
        or state.epochs[WISHES[n].gateway] == 0
        or (WISHES[n].gateway, call.owner) in state.ended
        for n, call in enumerate(state.calls)
        if call.hold == "open"
    )


def refused_only_if_short(before: State, after: State) -> bool:
    """A reserve is refused only while the calls that were served and those under way leave too little."""
    for n, (was, call) in enumerate(zip(before.calls, after.calls, strict=True)):
        if was.commit == "flying" and call.commit == "short":
            used = {
                name: sum(
                    WISHES[m].amount if c.hold == "open" else c.cost
                    for m, c in enumerate(before.calls)
                    if name in WISHES[m].chain
                )
                for name in WISHES[n].chain
            }
            if all(used[name] + WISHES[n].amount <= LIMITS[name] for name in WISHES[n].chain):
                return False
    return True


INVARIANTS: Final[dict[str, Callable[[State], bool]]] = {
    "LAW_2": law_2,
    "RESOLVED_ONCE": resolved_once,
    "ENTRIES_EQUAL_BALANCES": entries_equal_balances,
    "FORWARDED_IS_ON_DISK": forwarded_is_on_disk,
    "SERVED_IS_CHARGED": served_is_charged,
    "NO_PHANTOM": no_phantom,
}
"""What is true in every state."""

MUTATIONS: Final = {
    "only the root is looked at": "LAW_2",
    "only the root is charged": "ENTRIES_EQUAL_BALANCES",
    "a void returns nothing": "ENTRIES_EQUAL_BALANCES",
    "a hold is resolved again": "RESOLVED_ONCE",
    "a call is sent before its commit": "FORWARDED_IS_ON_DISK",
    "a call that was sent is voided": "SERVED_IS_CHARGED",
    "no tombstone is set": "NO_PHANTOM",
    "an account that is busy refuses": "REFUSED_ONLY_IF_SHORT",
}
"""Rules that can be left out, and the invariant that falls without each."""
