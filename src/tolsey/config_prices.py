"""What calls cost, as `tolsey.toml` has it: the price keys of a route and of its `[[route.rule]]`, and `[[model]]`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tolsey import config_lines as lines
from tolsey.call import METHODS, Pattern, parse_pattern
from tolsey.config_lines import Table, one_of, shown, whole
from tolsey.gateway.headers import goes_up
from tolsey.pricing.document import parse_pointer
from tolsey.pricing.llm import PROVIDERS
from tolsey.pricing.models import MOST_COUNTED
from tolsey.pricing.tariff import Price, Reported, Rule
from tolsey.units import MAX_NANO, Amount, parse_amount

MAX_RULES: Final = 64
"""The most `[[route.rule]]` that one route has."""

MAX_MODELS: Final = 1000

LONGEST: Final = 86_400
"""The longest time that a call may be allowed to take, in seconds."""

PRICE_KEYS: Final = (
    "price", "price_per_second", "price_per_request_mb", "price_per_response_mb", "reported", "llm"
)  # fmt: skip
"""What a price can be made of."""

LLM_UNIT: Final = "USD"
"""The unit of the prices of models."""

_HEADER = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]{1,256}", re.ASCII)
_GLOB = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Model:
    """The prices of a model, which come before those that are known. `name` is a glob, the amounts are for a million
    tokens and all in one unit, `context` and `max_output` in tokens.
    """

    name: str
    input: Amount
    output: Amount
    cache_read: Amount | None
    cache_write: Amount | None
    context: int | None
    max_output: int | None


def has_price(table: Table) -> bool:
    """Whether a table says anything of a price."""
    return any(table.has(key) for key in PRICE_KEYS)


def read_price(table: Table, *, free_on_failure: bool) -> Price | None:
    """The price that a table has, None if it has none or a wrong one."""
    amounts = {key: table.read(key, amount, None) for key in (*PRICE_KEYS[:4], "at_most")}
    reported = _reported(table)
    llm = table.read("llm", one_of(*PROVIDERS), None)
    if not has_price(table):
        if table.has("at_most"):
            table.complain("at_most", "needs a price beside it, of which it is the most")
        return None
    given = {key: found for key, found in amounts.items() if found is not None}
    if reported is not None:
        given["reported"] = reported[0]
    units = [LLM_UNIT] if llm is not None else [found.unit for found in given.values()][:1]
    for key, found in given.items():
        if units and found.unit != units[0]:
            table.complain(key, f"is in {found.unit}, and another part of the price in {units[0]}: write both in one")
    if llm is not None:
        for key in ("price_per_second", "price_per_request_mb", "price_per_response_mb", "reported"):
            if table.has(key):
                table.complain(key, "is not for a route with llm, where only a flat price may be added")
    if table.has("reported") and not table.has("at_most"):
        table.complain("at_most", "is missing: what the upstream reports needs the most that it may be")
    nano = {key: found.nano for key, found in given.items()}
    at_most = nano.get("at_most")
    if at_most is not None and at_most < max(1, nano.get("price", 0)):
        table.complain("at_most", "must be above 0, and not below the price")
    if nano.get("price_per_second", 0) * LONGEST > MAX_NANO - nano.get("price", 0):
        table.complain("price_per_second", "is so high that a day of it fits no amount")
    if not units:
        return None
    return Price(
        units[0],
        flat=nano.get("price", 0),
        per_second=nano.get("price_per_second", 0),
        per_request_mb=nano.get("price_per_request_mb", 0),
        per_response_mb=nano.get("price_per_response_mb", 0),
        reported=None if reported is None else reported[1],
        llm=llm,
        at_most=at_most,
        free_on_failure=free_on_failure,
    )


def _reported(table: Table) -> tuple[Amount, Reported] | None:
    if not table.has("reported"):
        return None
    inner = table.table("reported")
    each = inner.need("each", amount, Amount(1, LLM_UNIT))
    header = inner.read("header", header_name, None)
    pointer = inner.read("json", _pointer, None)
    if inner.has("header") == inner.has("json"):
        table.complain("reported", 'has either a header or a json: { header = "X-Cost", each = "1 USD" }')
    inner.done()
    return each, Reported(each.nano, header, pointer)


def read_rules(table: Table, *, free_on_failure: bool) -> tuple[Rule, ...]:
    """The `[[route.rule]]` of a route."""
    rules = []
    for rule in table.tables("rule", MAX_RULES):
        price = read_price(rule, free_on_failure=free_on_failure)
        if not has_price(rule):
            rule.complain("price", 'is missing; a rule has one, if only "0 USD"')
        methods = rule.each("methods", _method)
        pattern = rule.read("path", _rule_pattern, None)
        conditions = []
        headers = rule.table("headers")
        for name, value in headers.items():
            try:
                conditions.append((header_name(name), lines.text(value).strip().encode("ascii")))
                if not goes_up(conditions[-1][0]):
                    headers.complain(name, "this header does not go upstream as the client sends it")
            except (ValueError, UnicodeError):
                headers.complain(name, "needs a header name and a text in ASCII that its value must be")
        if not any(rule.has(key) for key in ("methods", "path", "headers")):
            rule.complain("path", "is missing; a rule has methods, a path or headers that say which calls it is for")
        rule.done()
        if price is not None:
            rules.append(Rule(price, methods or None, pattern, tuple(conditions)))
    return tuple(rules)


def read_models(tables: Sequence[Table]) -> tuple[Model, ...]:
    """The `[[model]]` of a config."""
    found = []
    nothing = Amount(0, LLM_UNIT)
    for table in tables:
        model = Model(
            name=table.need("name", _glob, ""),
            input=table.need("input", _dollars, nothing),
            output=table.need("output", _dollars, nothing),
            cache_read=table.read("cache_read", _dollars, None),
            cache_write=table.read("cache_write", _dollars, None),
            context=table.read("context", whole(1, MOST_COUNTED), None),
            max_output=table.read("max_output", whole(1, MOST_COUNTED), None),
        )
        table.done()
        found.append(model)
    return tuple(found)


def amount(value: object) -> Amount:
    """Parse an amount."""
    return parse_amount(lines.text(value))


def _dollars(value: object) -> Amount:
    found = amount(value)
    if found.unit != LLM_UNIT:
        raise ValueError(f"the prices of models are in {LLM_UNIT}")
    return found


def _glob(value: object) -> str:
    name = lines.text(value)
    if _GLOB.fullmatch(name) is None:
        raise ValueError(f"{shown(name)} is not the name of a model with '*' for any characters")
    return name


def header_name(value: object) -> bytes:
    """Parse the name of a header, into lower case."""
    name = lines.text(value)
    if _HEADER.fullmatch(name) is None:
        raise ValueError(f"{shown(name)} is not a header name")
    return name.lower().encode("ascii")


def _pointer(value: object) -> tuple[str, ...]:
    return parse_pointer(lines.text(value))


def _method(value: object) -> str:
    method = lines.text(value)
    if method not in METHODS:
        raise ValueError(f"{shown(method)} is not one of {', '.join(METHODS)}")
    return method


def _rule_pattern(value: object) -> Pattern:
    """Parse the pattern of a rule, which may have a query part."""
    return parse_pattern(lines.text(value))
