"""The supervisor's alerts: found in the ledger every few seconds, and sent to where the config says."""

import asyncio
import platform
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from tolsey.config_alerts import AlertsTo
from tolsey.errors import TolseyError
from tolsey.ledger.alerting import TEST, seal_failed, seal_restored
from tolsey.store.alerts import Alerts, Taken
from tolsey.store.contract import Ledger
from tolsey.store.webhooks import deliver, key_of
from tolsey.token.caveats import format_time

LOOK_SECONDS: Final = 2.0
"""How often the ledger is looked through."""


class Alarm:
    """Sends alerts for as long as `run` runs. `using` lends the ledger; `to` is where they go by the present config,
    None for nowhere; `seal_problem` says why no checkpoint can be signed, `""` while they can.
    """

    def __init__(
        self,
        using: Callable[[], AbstractAsyncContextManager[Ledger]],
        to: Callable[[], AlertsTo | None],
        seal_problem: Callable[[], str],
        log: Any,  # noqa: ANN401 - structlog has no type for a bound logger
    ) -> None:
        self._using = using
        self._to = to
        self._seal_problem = seal_problem
        self._log = log
        self._alerts: Alerts | None = None
        self._for: AlertsTo | None = None
        self._unsealed_since: int | None = None

    async def run(self) -> None:
        """Look, and send, again and again."""
        while True:
            to = self._to()
            if to is not None:
                try:
                    await self.look(to)
                except TolseyError as error:
                    self._log.warning("alerts wait for the ledger", error=error.detail)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, to: AlertsTo) -> None:
        """Look once, and send what is due. Raises `TolseyError` where the ledger cannot be used."""
        now = time.time_ns()
        async with self._using() as ledger:
            if self._alerts is None or to != self._for:
                self._alerts, self._for = Alerts(ledger, to.thresholds, to.kinds), to
            await self._look_at_seal(self._alerts, now)
            await self._alerts.collect(now)
            taken = await self._alerts.take(now)
        for each in taken:
            # The ledger is not kept waiting for a receiver that is slow.
            fault = await asyncio.to_thread(self._send, to, each)
            async with self._using():
                given_up = await self._alerts.done(each, time.time_ns(), fault)
            if given_up:
                self._log.error("an alert was given up; see `tolsey alerts list`", alert=each.id, error=fault)
            elif fault is not None:
                self._log.warning("an alert was not taken and is sent again", alert=each.id, error=fault)

    async def _look_at_seal(self, alerts: Alerts, now: int) -> None:
        """Tell that the seal fails, once until it does not."""
        problem, since, host = self._seal_problem(), self._unsealed_since, platform.node()
        if problem and since is None:
            await alerts.put([seal_failed(problem, host, now)], now)
            self._unsealed_since = now
        elif not problem and since is not None:
            await alerts.put([seal_restored(host, format_time(since), now)], now)
            self._unsealed_since = None

    def _send(self, to: AlertsTo, taken: Taken) -> str | None:
        body = f'{{"type":"{taken.kind}","timestamp":"{format_time(taken.at)}","data":{taken.body}}}'
        return deliver(to.url.reveal(), key_of(to.secret.reveal()), taken.id, int(time.time()), body)


async def send_test(ledger: Ledger, by: str) -> str:
    """Keep an alert that says nothing, to be sent by the gateway; its id."""
    from tolsey.ledger.alerting import KEPT_NS, Alert

    now = time.time_ns()
    alert = Alert(f"{TEST}:{now}", now, TEST, {"by": by}, now + KEPT_NS)
    await Alerts(ledger, (), (TEST,)).put([alert], now)
    return alert.id
