"""What in `tolsey.toml` is about alerts: where they go, and what they are about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tolsey import config_lines as lines
from tolsey.config_lines import Table, one_of, whole
from tolsey.config_secrets import Secret, fill
from tolsey.ledger.alerting import KINDS, TEST
from tolsey.store.webhooks import key_of

DEFAULT_THRESHOLDS: Final = (50, 80, 100)
MAX_THRESHOLDS: Final = 10
LEAST_SECRET: Final = 16
"""The shortest secret that alerts are signed with, in characters."""


@dataclass(frozen=True, slots=True)
class AlertsTo:
    """Where alerts go: a URL (a secret too, as it often holds one), what they are signed with, the percents of a limit
    that are told, ascending, and what is told at all.
    """

    url: Secret
    secret: Secret
    thresholds: tuple[int, ...]
    kinds: tuple[str, ...]


def read_alerts(table: Table, env: Mapping[str, str], *, sends: bool) -> AlertsTo | None:
    """Read the section; None if it is not there. Without `sends` neither URL nor secret is looked at."""
    there = any(table.has(key) for key in ("url", "secret", "thresholds", "events"))
    url = table.need("url", _filled(env, sends, _url), Secret("")) if there else Secret("")
    secret = table.need("secret", _filled(env, sends, _key), Secret("")) if there else Secret("")
    thresholds = table.each("thresholds", whole(1, 100))
    kinds = table.each("events", one_of(*KINDS[:-1]))
    if len(thresholds) > MAX_THRESHOLDS:
        table.complain("thresholds", f"has more than {MAX_THRESHOLDS}")
    table.done()
    if not there:
        return None
    chosen = tuple(sorted(set(thresholds))) if table.has("thresholds") else DEFAULT_THRESHOLDS
    return AlertsTo(url, secret, chosen, (*(kinds or KINDS[:-1]), TEST))


def _filled(env: Mapping[str, str], sends: bool, check: Callable[[str], None]) -> Callable[[object], Secret]:
    def parse(value: object) -> Secret:
        raw = lines.text(value)
        if not sends:
            return Secret("")
        text = fill(raw, env)
        check(text)
        return Secret(text)

    return parse


def _url(text: str) -> None:
    try:
        parts = urlsplit(text)
        fits = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("http", "https")
        fits = fits and "@" not in parts.netloc and not parts.fragment
    except ValueError:
        fits = False
    if not fits:
        raise ValueError('must be "http://host/path" or "https://host/path", with an optional port and query')
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("holds a character that a URL has not")


def _key(text: str) -> None:
    try:
        key = key_of(text)
    except ValueError:
        raise ValueError("begins with whsec_, and then is not base64") from None
    if len(key) < LEAST_SECRET:
        raise ValueError(f"is shorter than {LEAST_SECRET} bytes")
