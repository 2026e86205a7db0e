"""A Tariff turns a Call into a Quote, the worst case that is reserved, and its Usage into a cost.

A tariff is prices, the first of which that fits is the call's. A price is a sum of parts; the sum is exact and rounded
up once (RULES.md M2). What the upstream says of itself is believed between nothing and what is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from tolsey.call import Call, Pattern, query_value
from tolsey.errors import AmountInvalid, Refusal
from tolsey.pricing.answers import Answer
from tolsey.pricing.document import DocumentInvalid, Real, parse_quantity, quantity, read_document, resolve
from tolsey.pricing.llm import MAX_BODY, Asked, read_request
from tolsey.pricing.models import Exact, ModelPrices
from tolsey.pricing.usage import Usage
from tolsey.tuples import make
from tolsey.units import NANO, Amount

STEP_SECONDS: Final = 10
"""So many seconds of a call that is charged by time are held at a time."""

STEP_BYTES: Final = 1_000_000
"""So many bytes of a body whose size is not known are held at a time."""

MB: Final = 1_000_000

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What the upstream says in a header (its name in lower case) or at a JSON pointer, and what each of it costs."""

    each: int
    header: bytes | None = None
    pointer: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What a call costs, in nano-units of `unit`: the sum of its parts.

    `at_most` is the ceiling of what grows or is reported, and what a call costs whose cost cannot be known; None where
    there is no such number. `llm` is the provider whose protocol the call speaks. With `free_on_failure` a 5xx from
    the upstream costs nothing.
    """

    unit: str
    flat: int = 0
    per_second: int = 0
    per_request_mb: int = 0
    per_response_mb: int = 0
    reported: Reported | None = None
    llm: str | None = None
    at_most: int | None = None
    free_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A price for the calls that meet every condition. `headers` are names in lower case with their values."""

    price: Price
    methods: tuple[str, ...] | None = None
    pattern: Pattern | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def fits(self, call: Call, headers: Headers) -> bool:
        """Whether the price is the call's. Raises ValueError, which says why, where two readers could disagree."""
        if self.methods is not None and ("GET" if call.method == "HEAD" else call.method) not in self.methods:
            return False
        if self.pattern is not None:
            if not self.pattern.matches_path(call.path):
                return False
            for name, value in self.pattern.query:
                if query_value(call.query, name) != value:
                    return False
        for header, wanted in self.headers:
            found = [value.strip() for key, value in headers if key == header]
            if len(found) > 1:
                raise ValueError(f"the header {header.decode('ascii')} is repeated")
            if any(
                header == word.strip().lower() for key, v in headers if key == b"connection" for word in v.split(b",")
            ):
                raise ValueError(f"the header {header.decode('ascii')} does not go upstream")
            if found != [wanted]:
                return False
        return True


class Cost(NamedTuple):
    """What a call cost, in nano-units. `metered` is whether that is known and not the worst case; `note` says how."""

    nano: int
    metered: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost before its hold is extended, and all that is needed to say later what it cost.

    `size` is the request body in bytes, None if it is not known. `asked` is what an LLM call asks for.
    """

    amount: Amount
    price: Price
    size: int | None
    asked: Asked | None = None
    rule: int | None = None

    @property
    def varies(self) -> bool:
        """Whether the cost is known only when the call is over."""
        price = self.price
        return bool(
            price.per_second
            or price.per_response_mb
            or (price.per_request_mb and self.size is None)
            or price.reported is not None
            or self.asked is not None
        )

    @property
    def reads(self) -> bool:
        """Whether the answer's body has to be read."""
        return self.asked is not None or (self.price.reported is not None and self.price.reported.pointer is not None)

    @property
    def body(self) -> bytes | None:
        """The request body as it goes upstream, where that was read already."""
        return None if self.asked is None else self.asked.body

    @property
    def step(self) -> int:
        """What the hold of a call that grows is extended by, in nano-units; 0 if it does not grow."""
        return _step(self.price, self.size)

    def parts(self) -> list[tuple[str, int]]:
        """What the amount is made of, each with its nano-units, rounded up alone."""
        price, size = self.price, self.size or 0
        found = [("the flat price", price.flat)]
        if price.per_request_mb:
            what = "the request, by the megabyte" if self.size is None else f"{size} bytes of request"
            held = STEP_BYTES if self.size is None else size
            found.append((what, -(-price.per_request_mb * held // MB)))
        if price.per_response_mb:
            found.append(("the response, by the megabyte", -(-price.per_response_mb * STEP_BYTES // MB)))
        if price.per_second:
            found.append((f"the time, by {STEP_SECONDS} seconds", price.per_second * STEP_SECONDS))
        if self.asked is not None and self.asked.bound is not None:
            found.append((self.asked.why, -(-self.asked.bound.numerator // self.asked.bound.denominator)))
        elif self.asked is not None:
            found.append((f"at_most, since {self.asked.why}", price.at_most or 0))
        elif price.reported is not None:
            found = [("at_most, since the upstream reports what it costs", price.at_most or 0)]
        elif price.at_most is not None and self.amount.nano == price.at_most:
            found.append(("never more than at_most", self.amount.nano - sum(nano for _, nano in found)))
        return [part for part in found if part[1]]

    def usage(self) -> Usage:
        """A usage to gather while the call is served."""
        reader: Answer | Pointed | None = None
        if self.asked is not None:
            reader = Answer(self.asked)
        elif self.price.reported is not None and self.price.reported.pointer is not None:
            reader = Pointed(self.price.reported.pointer)
        withholds = self.asked is not None and self.asked.withholds
        return Usage(reader, sent=self.size or 0, withholds=withholds)

    def so_far(self, usage: Usage) -> int:
        """What a call that grows has cost up to now, in nano-units."""
        return self._up(_grown(self.price, usage.sent, usage.received, usage.ns))

    def _up(self, exact: Exact) -> int:
        return _up(self.price, exact, is_llm=self.asked is not None)

    def cost(self, status: int, usage: Usage | None = None) -> Cost:
        """What the call cost that the upstream answered with `status`. It may be more than what is held."""
        price = self.price
        if price.free_on_failure and status >= 500:
            return Cost(0)
        if usage is None:
            return make(Cost, (self.amount.nano, True, ""))
        exact, note = _grown(price, usage.sent, usage.received, usage.ns), ""
        if self.asked is not None:
            answer = usage.reader
            if not isinstance(answer, Answer):
                raise AssertionError("the usage of an LLM call is read by an Answer")
            more, note = answer.priced(usage)
            if more is None:
                return Cost(self.amount.nano, False, note)
            if status >= 400 and not more:
                return Cost(self._up(exact), True, note)
            exact += more
        elif price.reported is not None:
            try:
                value = self._reported(price.reported, usage)
            except ValueError as error:
                return Cost(self.amount.nano, False, str(error))
            exact += value * price.reported.each
            if exact > self.amount.nano:
                return Cost(self.amount.nano, False, "more was reported than the route's at_most")
        nano = self._up(exact)
        # A tariff that is not zero never gives zero.
        return Cost(nano or min(1, self.amount.nano), True, note)

    def _reported(self, reported: Reported, usage: Usage) -> Fraction:
        if reported.header is not None:
            name = reported.header.decode("ascii")
            values = [value for key, value in usage.headers if key == reported.header]
            if len(values) != 1:
                raise ValueError(f"the header {name} is {'repeated' if values else 'missing'}")
            try:
                return parse_quantity(values[0].decode("ascii", "replace").strip())
            except ValueError as error:
                raise ValueError(f"the header {name} {error}") from None
        if usage.fault is not None:
            raise ValueError(usage.fault)
        if not isinstance(usage.reader, Pointed):
            raise AssertionError("a reported field is read by a Pointed")
        return usage.reader.value()


def _step(price: Price, size: int | None) -> int:
    per_mb = price.per_response_mb + (price.per_request_mb if size is None else 0)
    return price.per_second * STEP_SECONDS + -(-per_mb * STEP_BYTES // MB)


def _grown(price: Price, sent: int, received: int, ns: int) -> Exact:
    """What a call costs by its bytes and its time, and the flat price."""
    grown: Exact = price.flat
    if price.per_second:
        grown += Fraction(price.per_second * ns, NANO)
    if price.per_request_mb or price.per_response_mb:
        grown += Fraction(price.per_request_mb * sent + price.per_response_mb * received, MB)
    return grown


def _up(price: Price, exact: Exact, *, is_llm: bool) -> int:
    """Rounded up; `at_most` is the ceiling, but of what an LLM call says of itself."""
    nano = -(-exact.numerator // exact.denominator)
    return nano if price.at_most is None or is_llm else min(nano, price.at_most)


class Pointed:
    """Reads one field of an answer: a `Reader`. In a stream of events it is the last one that has it."""

    def __init__(self, pointer: tuple[str, ...]) -> None:
        self._pointer = pointer
        self._found: object = None
        self._fault: str | None = "the reported field is missing"

    def take(self, data: bytes) -> bool:
        """Read one document."""
        try:
            self._found = resolve(read_document(data), self._pointer)
            self._fault = None
        except DocumentInvalid as error:
            if self._found is None:
                self._fault = f"the answer cannot be read: {error}"
        except LookupError:
            pass
        return False

    def value(self) -> Fraction:
        """What was reported. Raises ValueError, which says what is wrong with it."""
        if self._fault is not None:
            raise ValueError(self._fault)
        try:
            if isinstance(self._found, str) and not isinstance(self._found, Real):
                return parse_quantity(self._found)
            return quantity(self._found)
        except ValueError as error:
            raise ValueError(f"the reported field {error}") from None


class Chosen(NamedTuple):
    """The price of a call, and the number of its rule (None: it is the route's own)."""

    price: Price
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices of a route: of the first rule that fits, else its own, else (None) there is none."""

    price: Price | None
    rules: tuple[Rule, ...] = ()
    models: ModelPrices | None = None
    max_body: int = MAX_BODY
    _own: "Chosen | None" = field(init=False, repr=False, compare=False)
    _flat: dict[int | None, Quote] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", None if self.price is None else Chosen(self.price))
        # A flat price is the same quote every time, and by far the most common.
        prices = [(None, self.price), *((number, rule.price) for number, rule in enumerate(self.rules))]
        flat = {
            number: Quote(Amount(price.flat, price.unit), price, 0, None, number)
            for number, price in prices
            if price is not None and price == Price(price.unit, price.flat, free_on_failure=price.free_on_failure)
        }
        object.__setattr__(self, "_flat", flat)

    def choose(self, call: Call, headers: Headers) -> Chosen | Refusal:
        """The price that a call comes under; which body it has is not looked at."""
        for number, rule in enumerate(self.rules):
            try:
                if rule.fits(call, headers):
                    return Chosen(rule.price, number)
            except ValueError as error:
                return Refusal("unpriceable", f"which price is meant is not clear: {error}")
        return self._own or Refusal("unpriceable", "no price of the route is for this call")

    def read(self, price: Price, call: Call, headers: Headers, body: bytes) -> Asked | Refusal:
        """What an LLM call asks for, from its body."""
        if price.llm is None or self.models is None:
            raise AssertionError("only the body of an LLM call is read")
        coding = b",".join(value for name, value in headers if name == b"content-encoding")
        return read_request(
            price.llm, self.models, method=call.method, path=call.path, coding=coding, body=body, now=call.now
        )

    def quote(self, chosen: Chosen, size: int | None = 0, asked: Asked | None = None) -> Quote | Refusal:
        """The worst case for a call whose request body has `size` bytes (None: not known)."""
        price, rule = chosen
        flat = self._flat.get(rule)
        if flat is not None:
            return flat
        exact = _grown(price, size or 0, 0, 0) + _step(price, size)
        if price.llm is not None:
            if asked is None or (asked.bound is None and price.at_most is None):
                why = "its body was not read" if asked is None else asked.why
                return Refusal("unpriceable", f"what the call may cost is not known: {why}")
            exact += price.at_most or 0 if asked.bound is None else asked.bound
        elif price.reported is not None:
            exact = price.at_most or 0
        try:
            return Quote(Amount(_up(price, exact, is_llm=asked is not None), price.unit), price, size, asked, rule)
        except AmountInvalid:
            return Refusal("unpriceable", "what the call may cost fits no amount")
