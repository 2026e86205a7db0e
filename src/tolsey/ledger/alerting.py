"""Alerts: what is worth telling somebody about, and how often to try. Pure; times are nanoseconds since the epoch.

An alert has an id that is made of what it is about, so that several gateways on one ledger, or one that was started
again, tell it once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tolsey.units import format_nano

THRESHOLD: Final = "account.threshold"
ASKED: Final = "approval.asked"
ANSWERED: Final = "approval.answered"
REVOKED: Final = "token.revoked"
UNREVOKED: Final = "token.unrevoked"
SEAL_FAILED: Final = "seal.failed"
SEAL_RESTORED: Final = "seal.restored"
TEST: Final = "test"

KINDS: Final = (THRESHOLD, ASKED, ANSWERED, REVOKED, UNREVOKED, SEAL_FAILED, SEAL_RESTORED, TEST)
"""Everything that alerts are about."""

PAUSES: Final = (5, 30, 120, 600, 1_800, 7_200, 21_600, 43_200)
"""How long to wait after each attempt that failed, in seconds. After one more it is dead, some 24 hours on."""

KEPT_NS: Final = 60 * 86_400 * 10**9
"""How long an alert is kept. That of an account without a period is kept as long as the account: it is told once."""


class Alert(NamedTuple):
    """What is told: `data` is the JSON that goes out. After `until` it is forgotten (None: never)."""

    id: str
    at: int
    kind: str
    data: Mapping[str, object]
    until: int | None


class Standing(NamedTuple):
    """Where an account with a limit stands, in nano-units; `window` is the start of its window, if it has a period."""

    id: str
    unit: str
    label: str | None
    period: str | None
    window: int | None
    limit: int
    spent: int
    held: int


def crossed(standing: Standing, thresholds: Sequence[int], at: int) -> Iterator[Alert]:
    """One alert for each threshold (percent) that what is spent and held has reached."""
    used = standing.spent + standing.held
    for percent in thresholds:
        if used * 100 < standing.limit * percent:
            continue
        window = "" if standing.window is None else f":{standing.window}"
        data = {
            "account": standing.id,
            "label": standing.label,
            "unit": standing.unit,
            "period": standing.period,
            "percent": percent,
            "limit": format_nano(standing.limit),
            "spent": format_nano(standing.spent),
            "held": format_nano(standing.held),
        }
        until = None if standing.window is None else at + KEPT_NS
        yield Alert(f"{THRESHOLD}:{standing.id}:{standing.unit}{window}:{percent}", at, THRESHOLD, data, until)


def seal_failed(problem: str, host: str, at: int) -> Alert:
    """From `at` on, the gateway on that machine can sign no checkpoint."""
    return Alert(f"{SEAL_FAILED}:{host}:{at}", at, SEAL_FAILED, {"problem": problem, "host": host}, at + KEPT_NS)


def seal_restored(host: str, since: str, at: int) -> Alert:
    """The gateway on that machine can sign again; `since` (RFC 3339) is from when it could not."""
    return Alert(f"{SEAL_RESTORED}:{host}:{at}", at, SEAL_RESTORED, {"since": since, "host": host}, at + KEPT_NS)


def next_try(tries: int, now: int) -> int | None:
    """When to try again after so many attempts, all of which failed; None if no more."""
    return now + PAUSES[tries - 1] * 10**9 if tries <= len(PAUSES) else None
