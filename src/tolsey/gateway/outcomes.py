"""What a reserve that was not granted is as a Refusal."""

from tolsey.errors import Refusal
from tolsey.ledger.events import Conflict, Late, Outcome, RateLimited, Shortfall, TooManyHolds, Unknown
from tolsey.token.caveats import SECOND, format_time
from tolsey.token.chain import Chain, Charge
from tolsey.units import Amount


def refusal_of(
    outcome: Outcome, chain: Chain, charge: Charge, amount: Amount, *, disclose_chain: bool, now: int
) -> Refusal:
    """Why a call of `chain` may not be charged `amount`. Figures of accounts above the bearer's own are shown only with
    `disclose_chain` (RULES.md M15); `now` is in nanoseconds since the epoch.
    """
    match outcome:
        case Shortfall(account, spent, held, limit, resets_at):
            shown = disclose_chain or account.id in chain.own_accounts()
            counted = account in charge.counters
            return Refusal(
                "calls_exhausted" if counted else "budget_exhausted",
                f"{account.label or 'an account'} cannot pay {'another call' if counted else amount}",
                link=account.label,
                prefix_id=account.id,
                unit=account.unit,
                limit=limit if shown else None,
                spent=spent if shown else None,
                held=held if shown else None,
                resets_at=None if resets_at is None else format_time(resets_at),
            )
        case RateLimited(rate, until):
            return Refusal(
                "rate_limited",
                f"at most {rate.calls} calls a {rate.period}",
                link=rate.label,
                prefix_id=rate.id,
                retry_after=max(1, -((now - until) // SECOND)),
            )
        case TooManyHolds(account):
            return Refusal(
                "too_many_holds", "too many calls of this Link are open", link=account.label, prefix_id=account.id
            )
        case Conflict(detail):
            return Refusal("ledger_conflict", detail)
        case Late() | Unknown():
            return Refusal("ledger_conflict", "the hold was closed while the call was running")
    raise AssertionError(f"a reserve cannot end in {outcome}")
