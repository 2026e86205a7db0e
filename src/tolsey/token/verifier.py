"""From what a caller presented to a verified Chain, remembering the prefixes that were verified before.

What is remembered (RULES.md T9): under the SHA-256 of a prefix's exact bytes, which hold its key id, the MAC at its end
and the chain it parses to, which is a pure function of those bytes; and under that of a whole token's text, the text
and its chain, so that it need not be decoded again. Never a clearance, a revocation or a balance. An entry is made only
after a whole token verified, on the second sight, within a bound in bytes. The last signature is compared every time,
in constant time, be it alone or in the whole text; `forget` empties all of it when the keys change.

Of the prefixes that were handed on last the bytes are kept too: a token that begins with them is taken apart from there
on, so that each of a swarm of fresh tokens costs no more than what is new in it.
"""

import hmac
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from tolsey.errors import KeyUnknown, TokenMalformed
from tolsey.token import wire
from tolsey.token.chain import Chain, grow, parse_identifier, start, with_discharges
from tolsey.token.macaroon import Macaroon, discharge_caveats, first_mac, mac_after, verify_signature
from tolsey.token.wire import LIMITS, Caveat, Fields, Limits

MEMORY_BYTES: Final = 32 * 1024 * 1024
"""How much a verifier may remember, in bytes, by its own estimate."""

MOST_PARENTS: Final = 64
"""How many minted tokens have parents at hand."""

MOST_OF_ONE: Final = 4
"""How many parents each of them has at hand."""

_HEAD_BYTES: Final = 64
"""By how many bytes tokens are told apart when parents are looked for: the identifier's nonce is among them."""

_SEEN_ONCE: Final = 32_768
_CHAIN_BYTES: Final = 1_000
_CAVEAT_BYTES: Final = 450


class Parent(NamedTuple):
    """A verified prefix that was handed on: its exact bytes, the MAC at its end, and its chain."""

    data: bytes
    mac: bytes
    chain: Chain


class Memory:
    """Verified prefixes, the least recently used dropped first."""

    def __init__(self, most_bytes: int = MEMORY_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._known: OrderedDict[bytes, tuple[bytes, Chain]] = OrderedDict()
        self._once: dict[bytes, None] = {}
        self._parents: OrderedDict[bytes, list[Parent]] = OrderedDict()

    def parent_of(self, data: bytes) -> Parent | None:
        """The longest prefix of a token among the parents at hand."""
        found = None
        for parent in self._parents.get(data[:_HEAD_BYTES], ()):
            if data.startswith(parent.data) and (found is None or len(parent.data) > len(found.data)):
                found = parent
        return found

    def hand_on(self, parent: Parent) -> None:
        """Have a prefix at hand that is remembered, and that a token goes on from."""
        if len(parent.data) < _HEAD_BYTES:
            return
        head = parent.data[:_HEAD_BYTES]
        others = [each for each in self._parents.get(head, ()) if each.data != parent.data]
        self._parents[head] = [parent, *others][:MOST_OF_ONE]
        self._parents.move_to_end(head)
        if len(self._parents) > MOST_PARENTS:
            self._parents.popitem(last=False)

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
        self._parents.clear()
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
        chain = self._verify(parts)
        if not chain.third_parties:
            self.memory.put(name, text, chain)
        return chain

    def verify_undischarged(self, token: str) -> Chain:
        """Verify a token whose third-party caveats are yet to be discharged: it opens nothing. Raises as `verify`."""
        return self._verify(wire.text_to_parts(token, self._limits), discharged=False)

    def _verify(self, parts: list[bytes], *, discharged: bool = True) -> Chain:
        data = parts[0]
        parent = self.memory.parent_of(data)
        prefix = None if parent is None else wire.Prefix(len(parent.data), len(parent.chain.prefix_ids) - 1)
        root, *others = wire.parse(data, self._limits, prefix)
        others += [fields for part in parts[1:] for fields in wire.parse(part, self._limits)]
        if others and not discharged:
            raise TokenMalformed("the token is sent without discharges here")
        if len(others) > self._limits.discharges:
            raise TokenMalformed(f"a token has at most {self._limits.discharges} discharges")
        chain, mac, known = self._longest_known(data, root, parent)
        caveats = root.caveats[known:]
        macs = [mac]
        for caveat in caveats:
            macs.append(mac_after(macs[-1], caveat))
        verify_signature(macs[-1], root.signature)
        minted, before = chain.identifier.minted, len(chain.prefix_ids) - 1
        if minted > before + len(caveats):
            raise TokenMalformed("the token has fewer caveats than its minter wrote")
        new: list[tuple[bytes, bytes, Chain]] = []
        done = 0
        for end in _boundaries(caveats):
            if end > done or before == end == 0:
                chain = grow(chain, macs[done : end + 1], caveats[done:end], self._limits)
                done = end
                if root.ends and before + end >= minted:
                    new.append((_key(data, root, known + end), macs[end], chain))
        whole = chain
        if discharged and (chain.third_parties or others):
            asked = [third_party for third_party, _, _ in chain.third_parties]
            discharges = [Macaroon("", f.identifier, f.caveats, f.signature) for f in others]
            whole = with_discharges(chain, discharge_caveats(asked, macs[-1], discharges))
        for key, prefix_mac, grown in new:
            self.memory.put(key, prefix_mac, grown)
        return whole

    def _longest_known(self, data: bytes, root: Fields, parent: Parent | None) -> tuple[Chain, bytes, int]:
        """The longest remembered prefix that ends where a Link does, its MAC, and how many of these caveats it has.
        `parent` is the one behind which they stand.
        """
        if root.ends:
            for end in reversed(_boundaries(root.caveats)):
                if end == 0 and parent is not None:
                    break
                known = self.memory.get(_key(data, root, end))
                if known is not None:
                    mac, chain = known
                    if end < len(root.caveats):
                        self.memory.hand_on(Parent(data[: root.ends[end]], mac, chain))
                    return chain, mac, end
        if parent is not None:
            return parent.chain, parent.mac, 0
        identifier = parse_identifier(root.identifier)
        key = self._key_of(identifier.key_id) if identifier.kind == self._kind else None
        if key is None:
            raise KeyUnknown("the token was not minted with a key that is known here")
        mac = first_mac(key, root.identifier)
        return start(root.identifier, mac), mac, 0


def _boundaries(caveats: Sequence[Caveat]) -> list[int]:
    """How many caveats stand before each label, and all of them: where a holder may have handed on."""
    found = [n for n, caveat in enumerate(caveats) if n and caveat.vid is None and caveat.cid[:5] == b"label"]
    return [*found, len(caveats)]


def _key(data: bytes, root: Fields, end: int) -> bytes:
    return sha256(data[: root.ends[end]]).digest()
