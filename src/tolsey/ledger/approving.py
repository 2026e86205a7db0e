"""Approvals: what was asked of the gateway's people, and what they said. Times are nanoseconds since the epoch.

A question is kept for a while and no longer: a bearer must not be able to fill a table. What was said to it is an entry
of the journal, and stays.
"""

from typing import Final, NamedTuple

from tolsey.ledger.events import Entry, Kind
from tolsey.token.caveats import format_time
from tolsey.units import Amount

MAX_OPEN: Final = 1_000
"""How many questions may be open at once."""

MAX_OPEN_EACH: Final = 20
"""How many of them may be asked by tokens of one root."""

OPEN_NS: Final = 3_600 * 10**9
"""How long somebody may take to answer."""

KEPT_NS: Final = 7 * 86_400 * 10**9
"""How long a question is kept once it is no longer open."""

VALID_NS: Final = 300 * 10**9
"""How long an approved call may be made, from the answer on."""


class Question(NamedTuple):
    """One call that somebody is asked about. `prefix_id` names the prefix that ends in the caveat that asks, `root` the
    token's root, `labels` the Links between, joined by `/`. `ticket` is the caveat's identifier, `nano` and `unit` the
    most that the call may cost. After `until` it cannot be answered any more.
    """

    id: str
    at: int
    until: int
    root: str
    prefix_id: str
    labels: str
    ticket: str
    method: str
    path: str
    query: str
    nano: int
    unit: str
    purpose: str


class Asked(NamedTuple):
    """A question and what was said to it: `granted` is None while nobody did, `answered` when that was, `note` by whom
    and why.
    """

    question: Question
    granted: bool | None = None
    answered: int | None = None
    note: str = ""

    def is_open(self, now: int) -> bool:
        """Whether it can still be answered."""
        return self.granted is None and now < self.question.until


def document(asked: Asked, now: int) -> dict[str, object]:
    """A question as JSON, with its state at an instant: `open`, `approved`, `denied` or `over`."""
    question = asked.question
    state = "open" if asked.is_open(now) else {None: "over", True: "approved", False: "denied"}[asked.granted]
    return {
        "id": question.id,
        "state": state,
        "asked_at": format_time(question.at),
        "until": format_time(question.until),
        "labels": question.labels,
        "prefix_id": question.prefix_id,
        "method": question.method,
        "path": question.path,
        "query": question.query,
        "price": str(Amount(question.nano, question.unit)),
        "purpose": question.purpose,
        "answered_at": None if asked.answered is None else format_time(asked.answered),
        "note": asked.note,
    }


def entry_of(question: Question, *, granted: bool, at: int, owner: int, note: str) -> Entry:
    """What the journal says of an answer. Its `hold` is the question's id."""
    kind = Kind.APPROVE if granted else Kind.DENY
    what = f"{question.method} {question.path}" + (f"?{question.query}" if question.query else "")
    return Entry(kind, at, question.id, None, question.nano, owner, f"{note}: {question.labels}: {what}"[:1000])
