"""What can go wrong for somebody who pays."""

from tolsey.errors import TolseyError


class ChallengeRefused(TolseyError):
    """A challenge that is not paid: it is over what may be spent, or cannot be what it says it is."""

    code = "challenge_refused"


class PaymentFailed(TolseyError):
    """A payment that was surely not made. Trying again may help."""

    code = "payment_failed"


class PaymentUnknown(TolseyError):
    """Nobody knows yet whether a payment was made. The same invoice is tried again before any other is paid; a node
    pays one invoice once.
    """

    code = "payment_unknown"
