"""The fast path: calls whose passage is known take it without one (docs/decisions/0037).

The compiled wire knows a request by its bytes. What is to be done with one that it has not seen is asked here, and
remembered as a Plan. From then on a call with the same bytes is held, forwarded and settled by what is in this file,
and nothing of it is read again. Whether the plan still stands, and what the accounts have left, is asked for every
call. Whatever has no plan is handed to the server, with its connection, and takes the passage.
"""

import asyncio
import socket
import time
from collections.abc import Coroutine, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from tolsey.errors import LedgerUnavailable, Refusal
from tolsey.gateway import headers as header_rules
from tolsey.gateway import native, problems
from tolsey.gateway.client import LATE, Cut
from tolsey.gateway.cycle import STATUS_LINES
from tolsey.gateway.destination import NotSent
from tolsey.gateway.fast_call import FastCall
from tolsey.gateway.funds import funds_lines, hold_header
from tolsey.gateway.messages import Cleared, lines_of
from tolsey.gateway.passage import Passage
from tolsey.gateway.plan import Asking, Plan
from tolsey.gateway.plans import cleared_by_body, plan_of
from tolsey.gateway.record import CallRecord
from tolsey.gateway.remembered import Remembered
from tolsey.gateway.server import HttpServer
from tolsey.gateway.settling import answered, broken, observe, resolution, unsent
from tolsey.ledger.events import Granted, Reserve
from tolsey.tuples import make

if TYPE_CHECKING:
    from tolsey.gateway.asgi import Gateway

SWEEP_SECONDS: Final = 0.05
"""How often calls under way are looked at for silence."""

IDLE_SECONDS: Final = 1.0
"""How often connections are, and the date is set."""

_CUTS: Final[Mapping[int, Cut]] = {20: Cut.SILENT, 21: Cut.TOO_LONG, 22: Cut.REVOKED}
_STARTED: Final = 1 << 8
_WENT: Final = 1 << 9


class FastPath:
    """Serves `gateway` on a wire, and hands what it does not take to `server`."""

    def __init__(self, wire: native.Wire, gateway: "Gateway", passage: Passage, server: HttpServer) -> None:
        self._wire = wire
        self._ended = gateway.ended
        self._bodies = gateway.bodies
        self._passage = passage
        self._book = passage.book
        self._revocations = passage.revocations
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._routes = passage.routes
        self._remembered = Remembered(wire)
        self._calls: dict[int, FastCall] = {}
        self._told: list[FastCall] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = False
        self._stopped = False
        for status, line in STATUS_LINES.items():
            wire.status_line(status, line)
        self._date = b""
        self._each_second()
        self._loop.add_reader(wire.fileno(), self._turn)

    async def listen(self, host: str, port: int) -> None:
        """Open the port; several processes may open the same one."""
        infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError:
                # As asyncio does: a host may have an address of a family that this machine has not.
                continue
            # Closed in any case: the wire has made the descriptor its own.
            with listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.setblocking(False)
                listener.bind(address)
                listener.listen(1024)
                self._wire.listen(listener)

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    def forget(self) -> None:
        """Decide everything anew: keys or routes are others now."""
        self._remembered.forget()

    def cut_revoked(self) -> None:
        """Cut every call under way upstream whose token is revoked by now."""
        for fast in tuple(self._calls.values()):
            if self._revoked(fast.plan) is not None:
                self._wire.cut(fast.call)
        self._go_on()

    async def drain(self, seconds: float) -> None:
        """Take no more connections, and let what is under way end, for at most `seconds`."""
        self._wire.drain()
        self._go_on()
        until = self._loop.time() + seconds
        while self._wire.open and self._loop.time() < until:
            self._wire.sweep()
            self._go_on()
            await asyncio.sleep(0.01)
        self._stopped = True
        late = tuple(self._calls)
        for call in late:
            self._wire.cut(call)
        self._go_on()
        for call in late:
            self._wire.abort(call)
        self._loop.remove_reader(self._wire.fileno())
        self._timer.cancel()

    def _each_second(self) -> None:
        self._date = f"date: {formatdate(time.time(), usegmt=True)}\r\n".encode("ascii")
        self._wire.date(self._date)
        self._wire.sweep()
        self._go_on()
        self._timer = self._loop.call_later(IDLE_SECONDS, self._each_second)

    def _watch(self) -> None:
        """Look for silence soon."""
        if not self._swept:
            self._swept = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._swept = False
        self._wire.sweep()
        self._go_on()
        if self._calls:
            self._watch()

    def _turn(self) -> None:
        """The loop: something is to be read or written."""
        self._wire.turn()
        self._go_on()

    def _go_on(self) -> None:
        """See to all events."""
        while True:
            events = list(self._wire.events())
            if not events:
                break
            now = self._passage.now()
            for kind, plan, call, a, b in events:
                if kind == native.READY:
                    self._ready(call, plan, now)
                elif kind == native.DONE:
                    self._done(call, a, b)
                elif kind == native.ASK:
                    self._decide(call)
                elif kind == native.DIAL:
                    self._spawn(self._dial(call, a))
                elif kind == native.HEAD:
                    self._head(call, a)
                elif kind == native.BODY:
                    self._watch()
                elif kind == native.KEPT:
                    self._use(call, a)
                elif kind == native.STRANGE:
                    self._remembered.plan(plan)
                    self._hand_over(call)
                else:
                    self._failed(call, kind, a, b)
        if self._wire.more:
            self._loop.call_soon(self._turn)

    def _decide(self, call: int) -> None:
        """A request that has no plan that stands: make one, or leave it to the server."""
        if self._passage.routes is not self._routes:
            self._renew()
        data, length, peer = self._wire.input(call)
        head = data[:length]
        plan = plan_of(self._passage, head, peer)
        if plan is None:
            self._hand_over(call)
            return
        self._remembered.add(call, plan, head, peer)

    def _renew(self) -> None:
        """The routes are others."""
        self._routes = self._passage.routes
        self._remembered.retire()

    def _hand_over(self, call: int) -> None:
        """Give a connection, with what was read from it, to the server."""
        data = self._wire.input(call).data
        connection = self._wire.release(call)
        if connection is not None:
            self._server.adopt(connection, data)

    def _stands(self, plan: Plan, now: int) -> bool:
        """Whether a call at the instant `now` (nanoseconds since the epoch) goes by a plan."""
        if self._passage.routes is not plan.routes or (plan.ends is not None and now >= plan.ends):
            return False
        return self._refused(plan) is None

    def _refused(self, plan: Plan) -> Refusal | None:
        """Why a call that goes by a plan is not to be sent; None where it is."""
        return None if plan.chain is None else self._revocations.refusal(plan.chain)

    def _revoked(self, plan: Plan) -> Refusal | None:
        """Why a call that goes by a plan is to be cut; None where it is not."""
        return None if plan.chain is None or plan.observed is not None else self._revocations.revoked(plan.chain)

    def _ready(self, call: int, number: int, now: int) -> None:
        """A whole request: reserve what it costs."""
        plan = self._remembered.plan(number)
        if plan is None or not self._stands(plan, now):
            self._decide(call)
            return
        record = CallRecord(now, time.perf_counter_ns(), plan.method, plan.path, "http", plan.trace)
        record.route = plan.route
        record.chain = plan.chain
        record.links = plan.links
        record.received = plan.size
        record.fast = True
        cleared = self._cleared(call, plan, record)
        if cleared is None:
            self._hand_over(call)
            return
        record.tags = plan.tags
        hold, until = self._passage.new_hold(now), now + plan.hold_ns
        accounts, counters, rates = cleared.charge
        nano = cleared.quote.amount.nano if accounts else 0
        fast = self._calls[call] = FastCall(call, plan, cleared, record, hold, nano, self._tell)
        self._watch()
        if plan.observed is not None:
            record.observed, record.agent = plan.observed, plan.agent
            self._tell(fast)
            return
        event = make(Reserve, (hold, accounts, nano, plan.note, counters, rates, None, until))
        record.reserving = record.began
        try:
            self._book.reserve_for(event, fast)
        except LedgerUnavailable as error:
            fast.set_exception(error)

    def _cleared(self, call: int, plan: Plan, record: CallRecord) -> Cleared | None:
        """What a call is charged to; None where it takes the passage."""
        if isinstance(plan.cleared, Cleared):
            return plan.cleared
        if not self._bodies.try_take(plan.size):
            return None
        cleared = cleared_by_body(plan.cleared, record, self._wire.body(call))
        if cleared is None:
            self._bodies.give(plan.size)
        return cleared

    def _tell(self, fast: FastCall) -> None:
        """A call has its outcome, or needs none. Those of a group are seen to together, and not within the Book."""
        self._told.append(fast)
        if len(self._told) == 1:
            self._loop.call_soon(self._held)

    def _held(self) -> None:
        """Holds are on disk, or are not to be had: forward, or refuse."""
        told, self._told = self._told, []
        going: list[FastCall] = []
        lines: list[bytes] = []
        for fast in told:
            outcome, charge = fast.outcome, fast.cleared.charge
            if isinstance(outcome, Granted):
                if charge.accounts or charge.counters:
                    fast.record.hold = fast.hold
                funds = self._may_go(fast, outcome)
                if funds is not None:
                    going.append(fast)
                    lines.append(funds)
            elif isinstance(outcome, LedgerUnavailable):
                self._deny(fast, Refusal("ledger_unavailable", outcome.detail))
            elif outcome is not None:
                self._deny(fast, self._passage.refusal(outcome, fast.cleared))
            else:
                going.append(fast)
                lines.append(self._funds(fast, None, fast.cleared.quote.amount.nano))
        if going:
            self._forward(going, lines)
        self._go_on()

    def _may_go(self, fast: FastCall, granted: Granted) -> bytes | None:
        """The lines about its money for the client of a call that is to be sent; None if it was refused instead."""
        record, revoked = fast.record, self._refused(fast.plan)
        if revoked is not None:
            record.note = f"{revoked.detail} before the call was sent"
            self._settle(fast, sent=False)
            record.hold, record.note = None, ""
            self._deny(fast, revoked)
            return None
        return self._funds(fast, granted, fast.held)

    def _funds(self, fast: FastCall, granted: Granted | None, nano: int) -> bytes:
        """The lines for the client of a call that costs `nano`, unless it is metered."""
        unit = fast.cleared.quote.price.unit
        if fast.usage is None:
            fast.record.charge(nano, unit)
        return funds_lines(fast.record, granted, unit, disclose_chain=self._passage.disclose_chain)

    def _forward(self, going: list[FastCall], lines: list[bytes]) -> None:
        """Send calls, each with the lines for its client."""
        went = self._wire.go([fast.call for fast in going], lines)
        now = time.perf_counter_ns()
        for fast, sent in zip(going, went, strict=True):
            if sent:
                fast.record.forwarded = now
            else:
                fast.record.note = "the caller went away before the call was sent"
                self._settle(fast, sent=False)
                self._end(fast)

    def _deny(self, fast: FastCall, refusal: Refusal) -> None:
        """Answer a call that was not let through."""
        self._passage.log.refused(refusal)
        self._refuse(fast, refusal)

    def _refuse(self, fast: FastCall, refusal: Refusal) -> None:
        """Answer a call that is not under way with a refusal."""
        record = fast.record
        record.refusal = refusal
        status, headers, body = problems.response(refusal)
        headers.extend(hold_header(record))
        record.answered = status
        if record.method == "HEAD":
            body = b""
        record.sent += len(body)
        end = b"connection: close\r\n\r\n" if self._wire.closes(fast.call) else b"\r\n"
        self._wire.answer(fast.call, b"".join((STATUS_LINES[status], lines_of(headers), self._date, end, body)))
        self._end(fast)

    async def _dial(self, call: int, place: int) -> None:
        """Connect to the upstream of a call, which the wire has that number for."""
        fast = self._calls.get(call)
        if fast is None:
            return
        try:
            connection = await fast.plan.upstream.dial()
        except NotSent as error:
            if self._calls.get(call) is fast:
                refusal = unsent(fast.record, error)
                self._settle(fast, sent=False)
                self._refuse(fast, refusal)
        else:
            self._wire.connected(call, place, connection)
        self._go_on()

    def _head(self, call: int, status: int) -> None:
        """An answer with headers that the wire has no rule for."""
        fast = self._calls[call]
        upstream = fast.plan.upstream
        headers = header_rules.down(self._wire.answer_head(call), origin=upstream.origin, prefix=upstream.prefix)
        granted = fast.outcome if isinstance(fast.outcome, Granted) else None
        nano = 0 if fast.usage is not None else fast.cleared.quote.cost(status).nano
        self._wire.head(call, lines_of(headers) + self._funds(fast, granted, nano))

    def _use(self, call: int, status: int) -> None:
        """Read what is there of the answer to a call that is metered."""
        fast, kept = self._calls.get(call), self._wire.kept(call)
        if fast is None or fast.usage is None or kept is None:
            return
        headers, piece = kept
        if fast.usage.status is None:
            fast.usage.head(status, headers)
        fast.usage.body(piece)

    def _done(self, call: int, status: int, sent: int) -> None:
        """The answer is whole."""
        fast = self._calls[call]
        record = fast.record
        record.status = record.answered = status
        record.sent = sent
        record.note = str(status)
        if fast.usage is not None:
            self._use(call, status)
            fast.usage.end()
        self._settle(fast, sent=True)
        self._end(fast)

    def _failed(self, call: int, kind: int, a: int, sent: int) -> None:
        """The call broke off, or its client is gone."""
        fast = self._calls.get(call)
        if fast is None:
            return
        record = fast.record
        why, started, went, status = a & 0xFF, a & _STARTED, a & _WENT, a >> 16
        record.status = status or None
        record.sent = sent
        if started:
            record.answered = status
        refusal: Refusal | None = None
        if kind == native.GONE or self._stopped:
            record.note = Cut.DISCONNECTED
        elif why in _CUTS:
            cut = _CUTS[why]
            record.note, record.fault = cut, LATE.get(cut)
            revoked = self._revoked(fast.plan) if cut is Cut.REVOKED else None
            refusal = revoked or Refusal("upstream_timeout", record.note)
        else:
            refusal = broken(record, native.BROKEN[why])
        if fast.usage is not None:
            self._use(call, status)
        self._settle(fast, sent=bool(went))
        if refusal is None:
            self._end(fast)
        elif started:
            record.refusal = refusal
            self._wire.abort(call)
            self._end(fast)
        else:
            self._refuse(fast, refusal)

    def _settle(self, fast: FastCall, *, sent: bool) -> None:
        record = fast.record
        if fast.usage is not None:
            answered(record, fast.usage)
        if record.observed is not None:
            observe(record, fast.cleared, fast.hold, fast.usage, sent=sent)
        elif record.hold is not None:
            quote = fast.cleared.quote
            resolved = resolution(record, record.hold, quote, fast.held, sent=sent, usage=fast.usage, kept=None)
            self._book.resolve(resolved)
        elif record.status is None:
            record.nano = record.cost = None

    def _end(self, fast: FastCall) -> None:
        del self._calls[fast.call]
        if isinstance(fast.plan.cleared, Asking):
            self._bodies.give(fast.plan.size)
        self._ended.add(fast.record)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
