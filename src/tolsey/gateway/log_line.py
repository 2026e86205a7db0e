"""The line of the log for one call."""

import msgspec


class Line(msgspec.Struct, omit_defaults=False, tag_field="event", tag="call", gc=False):
    """The line for one call: `at` is nanoseconds since the epoch, `ms` how long the call took, the rest as in the
    `CallRecord`.
    """

    at: int
    method: str
    path: str
    tool: str | None
    upstream: str
    hold: str | None
    status: int | None
    cost: str | None
    note: str
    ms: float
    trace: str | None
