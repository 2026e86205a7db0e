"""From what a caller presented to a verified Chain, remembering the prefixes that were verified before.

What is remembered (RULES.md T9): under the SHA-256 of a prefix's exact bytes, which hold its key id, the MAC at its end
and the chain it parses to, which is a pure function of those bytes; and under that of a whole token's text, the text
and its chain, so that it need not be decoded again. Never a clearance, a revocation or a balance. An entry is made only
after a whole token verified, on the second sight, within a bound in bytes. The last signature is compared every time,
in constant time, be it alone or in the whole text; `forget` empties all of it when the keys change.
"""

import hmac
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from tolsey.errors import KeyUnknown, TokenMalformed
from tolsey.token import wire
from tolsey.token.chain import Chain, grow, parse_identifier, start, with_discharges
from tolsey.token.macaroon import Macaroon, discharge_caveats, first_mac, mac_after, verify_signature
from tolsey.token.wire import LIMITS, Fields, Limits

MEMORY_BYTES: Final = 32 * 1024 * 1024
"""How much a verifier may remember, in bytes, by its own estimate."""

_SEEN_ONCE: Final = 32_768
_CHAIN_BYTES: Final = 1_000
_CAVEAT_BYTES: Final = 450


class Memory:
    """Verified prefixes, the least recently used dropped first."""

    def __init__(self, most_bytes: int = MEMORY_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._known: OrderedDict[bytes, tuple[bytes, Chain]] = OrderedDict()
        self._once: dict[bytes, None] = {}

    def get(self, key: bytes) -> tuple[bytes, Chain] | None:
        """The MAC (or the text) and the chain of a prefix (or of a whole token), or None."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: bytes, mac: bytes, chain: Chain) -> None:
        """Remember a prefix of a token that verified, if this is its second sight."""
        if key in self._known:
            return
        if key not in self._once:
            if len(self._once) >= _SEEN_ONCE:
                self._once.clear()
            self._once[key] = None
            return
        del self._once[key]
        self._known[key] = (mac, chain)
        self._bytes += _size(chain) + len(mac)
        while self._bytes > self._most:
            _, (mac, dropped) = self._known.popitem(last=False)
            self._bytes -= _size(dropped) + len(mac)

    def forget(self) -> None:
        """Drop everything."""
        self._known.clear()
        self._once.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)


def _size(chain: Chain) -> int:
    """A little more than a chain holds: what a caveat was parsed to can be fifty times its text."""
    text = " ".join(term.text for term in chain.terms)
    parsed = 250 * text.count(" ") + 70 * text.count("/") + 200 * text.count("&") + 4 * len(text)
    return _CHAIN_BYTES + _CAVEAT_BYTES * len(chain.prefix_ids) + parsed


class Verifier:
    """Verifies tokens of one kind.

    `key_of` takes a key id and returns the derived root key, or None. `kind` is `CAPABILITY`, `ADMIN` or `L402`.
    """

    def __init__(self, kind: str, key_of: Callable[[str], bytes | None], limits: Limits = LIMITS) -> None:
        self._kind = kind
        self._key_of = key_of
        self._limits = limits
        self.memory = Memory()

    def verify(self, token: str) -> Chain:
        """Verify a token with its discharges.

        Raises `TokenMalformed`, `TokenForged`, `DischargeMissing` or `DischargeInvalid`.
        """
        text = token.encode("utf-8", "surrogatepass")
        name = sha256(text).digest()
        known = self.memory.get(name)
        if known is not None and hmac.compare_digest(known[0], text):
            return known[1]
        parts = wire.text_to_parts(token, self._limits)
        if sum(map(len, parts)) > self._limits.token_bytes:
            raise TokenMalformed(f"a token has at most {self._limits.token_bytes} bytes")
        found = [fields for part in parts for fields in wire.parse(part, self._limits)]
        chain = self._verify(parts[0], found[0], found[1:])
        if not chain.third_parties:
            self.memory.put(name, text, chain)
        return chain

    def verify_undischarged(self, token: str) -> Chain:
        """Verify a token whose third-party caveats are yet to be discharged: it opens nothing. Raises as `verify`."""
        parts = wire.text_to_parts(token, self._limits)
        root, *others = [fields for part in parts for fields in wire.parse(part, self._limits)]
        if others:
            raise TokenMalformed("the token is sent without discharges here")
        return self._verify(parts[0], root, [], discharged=False)

    def _verify(self, data: bytes, root: Fields, others: list[Fields], *, discharged: bool = True) -> Chain:
        if len(others) > self._limits.discharges:
            raise TokenMalformed(f"a token has at most {self._limits.discharges} discharges")
        chain, mac, known = self._longest_known(data, root)
        macs = [mac]
        for caveat in root.caveats[known:]:
            macs.append(mac_after(macs[-1], caveat))
        verify_signature(macs[-1], root.signature)
        minted = chain.identifier.minted
        if minted > len(root.caveats):
            raise TokenMalformed("the token has fewer caveats than its minter wrote")
        new: list[tuple[bytes, bytes, Chain]] = []
        done = known
        for end in _boundaries(root):
            if end > done or (end == done == 0):
                chain = grow(chain, macs[done - known : end - known + 1], root.caveats[done:end], self._limits)
                done = end
                if root.ends and end >= minted:
                    new.append((_key(data, root, end), macs[end - known], chain))
        whole = chain
        if discharged and (chain.third_parties or others):
            asked = [third_party for third_party, _, _ in chain.third_parties]
            discharges = [Macaroon("", f.identifier, f.caveats, f.signature) for f in others]
            whole = with_discharges(chain, discharge_caveats(asked, macs[-1], discharges))
        for key, prefix_mac, prefix in new:
            self.memory.put(key, prefix_mac, prefix)
        return whole

    def _longest_known(self, data: bytes, root: Fields) -> tuple[Chain, bytes, int]:
        """The longest remembered prefix that ends where a Link does, its MAC, and how many caveats it has."""
        if root.ends:
            for end in reversed(_boundaries(root)):
                known = self.memory.get(_key(data, root, end))
                if known is not None:
                    return known[1], known[0], end
        identifier = parse_identifier(root.identifier)
        key = self._key_of(identifier.key_id) if identifier.kind == self._kind else None
        if key is None:
            raise KeyUnknown("the token was not minted with a key that is known here")
        mac = first_mac(key, root.identifier)
        return start(root.identifier, mac), mac, 0


def _boundaries(root: Fields) -> list[int]:
    """How many caveats stand before each label, and all of them: where a holder may have handed on."""
    caveats = root.caveats
    found = [n for n, caveat in enumerate(caveats) if n and caveat.vid is None and caveat.cid[:5] == b"label"]
    return [*found, len(caveats)]


def _key(data: bytes, root: Fields, end: int) -> bytes:
    return sha256(data[: root.ends[end]]).digest()
