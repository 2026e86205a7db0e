"""What the admin API takes and gives, as JSON. Amounts are plain decimal strings, times RFC 3339 in UTC."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tolsey.admin.problems import CODES
from tolsey.token.wire import LIMITS


def _one_line(text: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise ValueError("must not hold a line break or another control character")
    return text


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
    AfterValidator(_one_line),
    Field(description="Why. It is written into the ledger.", examples=["second quarter"]),
]
PrefixId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
HoldId = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9._-]{1,128}$")]
QuestionId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")]
KeyId = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,32}$")]
AmountText = Annotated[str, StringConstraints(max_length=64), Field(examples=["100 USD"])]
TokenText = Annotated[str, StringConstraints(min_length=1, max_length=2 * LIMITS.token_bytes)]


class Body(BaseModel):
    """A request's body: nothing is converted, and nothing more may be in it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LinkBody(Body):
    """The caveats of one Link."""

    label: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="Whose token it is.", examples=["search-worker-12"]
    )
    budget: AmountText | None = Field(None, description="The most that it may spend.")
    scope: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="The paths that it may call, alternatives with spaces.", examples=["/api/v1/*"]
    )
    expires: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A date (its end, UTC) or an RFC 3339 time.", examples=["2030-06-30"]
    )
    caveats: Annotated[
        list[Annotated[str, StringConstraints(max_length=LIMITS.caveat_bytes)]], Field(max_length=LIMITS.caveats)
    ] = Field(default_factory=list, description="Any others; all hold.", examples=[["method = GET"]])


class MintBody(LinkBody):
    """A token to be minted."""

    free_calls_only: bool = Field(False, description="Without a budget: it can make calls that cost nothing.")
    reason: Reason | None = Field(None, description="Why. It is written into the ledger with who minted it.")


class AttenuateBody(LinkBody):
    """A token to be made narrower."""

    token: TokenText = Field(description="The token; whether it is genuine is not looked at.")


class Why(Body):
    """A change that needs a reason."""

    reason: Reason


class GrantBody(Why):
    """How much more an account may spend, and why."""

    amount: AmountText


class RefundBody(Why):
    """How much a call gets back (all that is left of it, if left out), and why."""

    amount: AmountText | None = None


class RotateBody(Why):
    """Of which kind a new key is to be, and why."""

    kind: str = Field(pattern="^(capability|admin|paid|approval)$")


class Minted(BaseModel):
    """A new token. It is shown once."""

    token: str
    prefix_id: PrefixId
    label: str
    caveats: list[str]


class Window(BaseModel):
    """The running window of an account whose limit is for a period."""

    start: str
    end: str
    spent: str
    held: str
    granted: str
    observed: str


class Within(BaseModel):
    """What an account spent within the time asked for, and how many of its calls were settled."""

    spent: str
    calls: int


class Account(BaseModel):
    """One account of the delegation tree. `depth` counts those above it, from where the tree was asked for."""

    id: PrefixId
    parent: PrefixId | None
    label: str | None
    unit: str
    limit: str | None
    period: str | None
    granted: str
    spent: str
    held: str
    calls: int
    observed: str
    left: str | None
    window: Window | None
    depth: int
    opened_by: str | None = Field(description="Who minted it or paid for it; null where its first call opened it.")
    first_seen: str
    last_seen: str | None
    refusals: dict[str, int] = Field(description="Calls that it refused, by code: of 90 days, or the time.")
    within: Within | None = Field(default=None, description="Of the time asked for.")


class Trail(BaseModel):
    """Accounts, depth first. `next` is the offset of the next page, null on the last; `at` is when it was read."""

    accounts: list[Account]
    next: int | None
    at: str


class LinkOut(BaseModel):
    """A Link of a chain."""

    id: PrefixId
    label: str | None


class Hold(BaseModel):
    """Money that is set aside for a call."""

    hold: str
    amount: str
    unit: str
    since: str
    until: str | None
    chain: list[LinkOut]
    call: str
    owner: str


class Holds(BaseModel):
    """The open holds, oldest first."""

    holds: list[Hold]
    more: bool = Field(description="Whether there are more than were asked for.")


class Returned(BaseModel):
    """What was given back. `was` is what the hold was before: open, unmetered or charged."""

    hold: str
    was: str
    returned: str
    unit: str
    reason: str
    by: str


class GrantOut(BaseModel):
    """What was granted, and what the account has left, as far as those above it allow."""

    prefix_id: PrefixId
    granted: str
    unit: str
    left: str
    reason: str
    by: str


class RevokeBody(Body):
    """What is to be refused from now on: a prefix id, or a token, whose last Link it is, or the one of a number."""

    prefix_id: PrefixId | None = None
    token: TokenText | None = None
    link: int | None = Field(
        None, ge=0, le=64, description="Of a token: the number of the Link; its last, if left out."
    )
    reason: Reason

    @model_validator(mode="after")
    def _one(self) -> "RevokeBody":
        if (self.prefix_id is None) == (self.token is None):
            raise ValueError("give a prefix_id or a token")
        if self.link is not None and self.token is None:
            raise ValueError("link chooses a Link of a token; a prefix id is what it is")
        return self


class RevocationOut(BaseModel):
    """A prefix that is revoked: since when, until when it matters (null: for ever), by whom and why."""

    prefix_id: PrefixId
    since: str
    until: str | None
    note: str


class Revoked(RevocationOut):
    """What is revoked now. `changed` is false where it was revoked before; `label` is that of a token's Link."""

    link: int | None
    label: str | None
    changed: bool


class Revocations(BaseModel):
    """What is revoked, oldest first."""

    revocations: list[RevocationOut]


class Unrevoked(BaseModel):
    """What is revoked no more."""

    prefix_id: PrefixId
    since: str
    note: str
    reason: str
    by: str


class Key(BaseModel):
    """A root key. Its secret is never shown."""

    id: str
    kind: str
    current: bool


class Keys(BaseModel):
    """The keys by kind, oldest first."""

    keys: list[Key]


class Rotated(BaseModel):
    """A new key, with which tokens of its kind are minted from now on."""

    id: str
    kind: str
    before: str | None
    reason: str
    by: str


class Dropped(BaseModel):
    """A key that is gone: tokens made with it are refused."""

    id: str
    kind: str
    reason: str
    by: str


class Question(BaseModel):
    """A call that waits for approval. The labels are those of a verified token, `purpose` is the agent's own word."""

    id: QuestionId
    state: str
    asked_at: str
    until: str
    labels: str
    prefix_id: PrefixId
    method: str
    path: str
    query: str
    price: str
    purpose: str
    answered_at: str | None
    note: str


class Questions(BaseModel):
    """What waits for approval."""

    approvals: list[Question]


class Answered(BaseModel):
    """What was said to a question."""

    id: QuestionId
    granted: bool
    reason: str
    by: str


class Me(BaseModel):
    """What the admin token that was sent amounts to. Its caveats are those that are not its labels."""

    who: str
    label: str | None
    prefix_id: PrefixId
    links: list[LinkOut]
    caveats: list[str]
    actions: list[str]
    expires: str | None


class UpstreamState(BaseModel):
    """An upstream. Of the headers that it is sent only the names are shown."""

    name: str
    url: str
    headers: list[str]


class RouteState(BaseModel):
    """A route. `prices` are in words; a public route has none."""

    path: str
    methods: list[str]
    upstream: str
    mode: str
    prices: list[str]
    offers: list[str]


class State(BaseModel):
    """The config that is in use. `problems` are why calls are not taken at the moment."""

    generation: str
    version: str
    workers: int
    mode: str
    ledger: str
    durability: str
    upstreams: list[UpstreamState]
    routes: list[RouteState]
    warnings: list[str]
    problems: list[str]


class Problem(BaseModel):
    """An RFC 9457 problem document. Others than these members may be there, such as the figures of an account."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(json_schema_extra={"enum": [*sorted(CODES)]})
