"""Which plans are remembered, each by the number that the wire has for it."""

from typing import Final

from tolsey.gateway import native
from tolsey.gateway.plan import Asking, Plan
from tolsey.gateway.upstream import Upstream

MOST_PLANS: Final = 4096
"""How many plans are remembered."""

MOST_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of heads they may have, as they come and as they go upstream."""

MOST_ONCE: Final = 16_384
"""How many requests are known to have been seen once: a plan is remembered from the second time on."""


class Remembered:
    """The plans of a `wire`, and the places that it sends requests to."""

    def __init__(self, wire: native.Wire) -> None:
        self._wire = wire
        self._plans: dict[int, Plan] = {}
        self._kept = self._bytes = 0
        self._number = 0
        self._once: set[int] = set()
        self._for_once: set[int] = set()
        self._destinations: dict[Upstream, int] = {}

    def forget(self) -> None:
        """Decide everything anew: keys or routes are others now."""
        self._wire.forget()
        self._plans.clear()
        self._for_once.clear()
        self._kept = self._bytes = 0

    def retire(self) -> None:
        """The routes are others: no connection to the old upstreams is kept."""
        for place in self._destinations.values():
            self._wire.retire(place)
        self._destinations.clear()
        self.forget()

    def plan(self, number: int) -> Plan | None:
        """The plan with this number, if it is still known; one that is for once is not any more after this."""
        if number in self._for_once:
            self._for_once.remove(number)
            return self._plans.pop(number, None)
        return self._plans.get(number)

    def add(self, call: int, plan: Plan, head: bytes, peer: str) -> None:
        """Have a call go by a plan, and from the second time on what has the same `head` and comes from that `peer`."""
        seen = hash((peer, head))
        flags = 0
        if seen in self._once:
            # What reads the body of a request has its headers once more.
            size = len(head) * (2 if isinstance(plan.cleared, Asking) else 1) + len(plan.head)
            if self._kept >= MOST_PLANS or self._bytes + size > MOST_BYTES:
                self.forget()
            self._kept += 1
            self._bytes += size
        else:
            if len(self._once) >= MOST_ONCE:
                self._once.clear()
            self._once.add(seen)
            flags = native.ONCE
        flags |= native.HEAD_ONLY if plan.method == "HEAD" else 0
        flags |= native.KEEP_ALIVE if plan.keep_alive else 0
        if isinstance(plan.cleared, Asking) or plan.metered:
            flags |= native.METERED
        elif plan.cleared.quote.price.free_on_failure:
            flags |= native.ASK_ON_FAILURE
        self._number = self._number % 0xFFFFFFFF + 1
        self._plans[self._number] = plan
        self._wire.remember(
            call,
            self._number,
            destination=self._destination(plan.upstream),
            head=plan.head,
            body=plan.size,
            flags=flags,
            timeout=plan.route.timeout,
            most=plan.route.max_duration,
        )
        if flags & native.ONCE:
            self._for_once.add(self._number)

    def _destination(self, upstream: Upstream) -> int:
        """The wire's number of an upstream."""
        place = self._destinations.get(upstream)
        if place is None:
            place = self._destinations[upstream] = self._wire.destination()
        return place
