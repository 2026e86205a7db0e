"""Tokens for tests: fixed keys and nonces, and short ways to mint, ask for a discharge, verify and clear."""

from tolsey.call import Call
from tolsey.errors import Refusal, TokenError
from tolsey.token.caveats import parse_expiry
from tolsey.token.chain import CAPABILITY, Account, Chain, Charge, write_identifier
from tolsey.token.clearing import clear
from tolsey.token.macaroon import Macaroon, derive_key, prefix_id
from tolsey.token.verifier import Verifier
from tolsey.token.wire import LIMITS, Limits, bytes_to_text
from tolsey.units import Amount

ROOT_KEY = b"the root key of the tests"
KEY_ID = "k1"
NONCE = "AAAAAAAAAAAAAAAAAAAAAA"
THIRD_KEY = b"a key that the approver shares with us"
ORACLE = "https://approve.example"

NOW = parse_expiry("2026-04-01T12:00:00Z")
CENT = Amount(10_000_000, "USD")
FREE = Amount(0, "USD")


def call(
    *,
    method: str = "GET",
    path: str = "/api/v1/search",
    query: str = "source=arxiv",
    peer: str = "192.0.2.7",
    now: int = NOW,
    upstream: str | None = "search",
    model: str | None = None,
) -> Call:
    """The call that most tests make, but for what they say."""
    return Call(method, path, query, peer, now, upstream, model=model)


CALL = call()

TEAM = ("label = team-research-q2 n1", "scope = /api/v1/*", "expires = 2026-06-30", "budget = 10000 USD")
SUBTASK = ("label = research-subtask-47 n2", "scope = /api/v1/search", "budget = 500 USD")
WORKER = ("label = search-worker-12 n3", "scope = /api/v1/search?source=arxiv", "budget = 50 USD")


def key_of(key_id: str) -> bytes | None:
    """The keyring of the tests: one key."""
    return derive_key(ROOT_KEY) if key_id == KEY_ID else None


def mint(
    *caveats: str | bytes,
    minted: int | None = None,
    kind: str = CAPABILITY,
    key_id: str = KEY_ID,
    nonce: str = NONCE,
    location: str = "",
) -> Macaroon:
    """Mint a token whose minter wrote `caveats` (`minted` says otherwise)."""
    identifier = write_identifier(kind, key_id, nonce, len(caveats) if minted is None else minted)
    return Macaroon.mint(root_key=ROOT_KEY, identifier=identifier, location=location).attenuate(*caveats)


def article() -> Macaroon:
    """The chain of the article: team, subtask, worker."""
    return mint(*TEAM).attenuate(*SUBTASK).attenuate(*WORKER)


def ask(macaroon: Macaroon, identifier: str = "approval 1", key: bytes = THIRD_KEY) -> Macaroon:
    """Append a third-party caveat, with the zero nonce."""
    return macaroon.attenuate_third_party(location=ORACLE, key=key, identifier=identifier.encode(), nonce=bytes(24))


def answer(*caveats: str | bytes, identifier: str = "approval 1", key: bytes = THIRD_KEY) -> Macaroon:
    """Mint the discharge that `ask` asks for; it is not bound yet."""
    return Macaroon.mint(root_key=key, identifier=identifier.encode(), location=ORACLE).attenuate(*caveats)


def text_of(root: Macaroon, *discharges: Macaroon) -> str:
    """The text that a caller presents: the token and its discharges, each bound to it."""
    return bytes_to_text(root.serialize() + b"".join(root.bind(d).serialize() for d in discharges))


def verifier(limits: Limits = LIMITS, kind: str = CAPABILITY) -> Verifier:
    """A verifier that remembers nothing yet."""
    return Verifier(kind, key_of, limits)


def chain_of(root: Macaroon, *discharges: Macaroon) -> Chain:
    """The verified chain of a token."""
    return verifier().verify(text_of(root, *discharges))


def decide(
    token: str | Macaroon, call: Call = CALL, price: Amount = CENT, *, by: Verifier | None = None
) -> Charge | Refusal | TokenError:
    """Verify, clear and open the purse, as the gateway does: what to charge, or what stood in the way."""
    text = token if isinstance(token, str) else text_of(token)
    try:
        chain = (by or verifier()).verify(text)
    except TokenError as error:
        return error
    cleared = clear(chain, call)
    return cleared if isinstance(cleared, Refusal) else cleared.charge(price)


def verdict(token: str | Macaroon, call: Call = CALL, price: Amount = CENT, *, by: Verifier | None = None) -> str:
    """`"cleared"`, or the code of what stood in the way."""
    decision = decide(token, call, price, by=by)
    return "cleared" if isinstance(decision, tuple) else decision.code


def refused(token: str | Macaroon, call: Call = CALL, price: Amount = CENT) -> Refusal:
    """The Refusal of a token that verifies."""
    decision = decide(token, call, price)
    assert isinstance(decision, Refusal), decision
    return decision


def charged(token: str | Macaroon, call: Call = CALL, price: Amount = CENT) -> tuple[Account, ...]:
    """The accounts of a call that is cleared."""
    decision = decide(token, call, price)
    assert isinstance(decision, Charge), decision
    return decision.accounts


def prefix_of(token: str) -> str:
    """The prefix id of a whole token."""
    return prefix_id(Macaroon.deserialize(token).signature)


def v1(macaroon: Macaroon) -> bytes:
    """Write the v1 binary format, which Tolsey only reads."""

    def packet(name: bytes, value: bytes) -> bytes:
        return b"%04x%b %b\n" % (len(name) + len(value) + 6, name, value)

    out = packet(b"location", macaroon.location.encode()) + packet(b"identifier", macaroon.identifier)
    for caveat in macaroon.caveats:
        out += packet(b"cid", caveat.cid)
        if caveat.vid is not None:
            out += packet(b"vid", caveat.vid) + packet(b"cl", caveat.location or b"")
    return out + packet(b"signature", macaroon.signature)
