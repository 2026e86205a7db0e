"""What in `tolsey.toml` is about observe mode: how callers without a token are told apart."""

import re
from typing import Final

from tolsey import config_lines as lines
from tolsey.config_lines import Table

DEFAULT_AGENTS: Final = ("header:x-agent", "certificate", "jwt:sub", "api-key", "user-agent", "address")

_SOURCE = re.compile(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}|jwt:[A-Za-z0-9_.:/-]{1,64}", re.ASCII)
_WORDS = ("certificate", "api-key", "user-agent", "address")


def read_agents(table: Table) -> tuple[str, ...]:
    """`agents` of `[observe]`: where to look, the first that is there counts (see `gateway.agents`)."""
    found = table.each("agents", _source)
    table.done()
    return found or DEFAULT_AGENTS


def _source(value: object) -> str:
    text = lines.text(value)
    if text not in _WORDS and _SOURCE.fullmatch(text) is None:
        raise ValueError(f'must be "header:NAME", "jwt:CLAIM", {", ".join(map(lines.shown, _WORDS[:-1]))} or "address"')
    return text if text.startswith("jwt:") else text.lower()
