"""Checkpoints: signed statements of how far every log had come.

A checkpoint names the heads that changed since the one before, and the hash of that one; so the last one stands for the
heads of all logs, and none can be left out. The key that signs the next may be announced in it: who trusts the first
key then trusts the later ones too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from tolsey.audit.canonical import Value, canonical
from tolsey.audit.seal import Head

FORMAT: Final = "tolsey-checkpoint-1"

Sign = Callable[[bytes], bytes]
"""An Ed25519 signature (64 bytes) over these bytes."""

Check = Callable[[bytes, bytes, bytes], bool]
"""Whether (public key, bytes, signature) belong together (Ed25519, RFC 8032)."""

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)
_MEMBERS: Final = {
    "at": str,
    "checkpoint": int,
    "format": str,
    "key": str,
    "ledger": str,
    "logs": list,
    "next": str | None,
    "previous": str | None,
    "signature": str,
}


class Logged(NamedTuple):
    """The head of one log."""

    log: int
    head: Head


class Checkpoint(NamedTuple):
    """A checkpoint that was read. `key` is the public key that signed it, `next` the one that will sign from here on
    (None: the same), both in hex; `digest` is its hash, which the next one names.
    """

    n: int
    at: str
    ledger: str
    logs: tuple[Logged, ...]
    key: str
    next: str | None
    previous: str | None
    digest: str


def make(
    before: Checkpoint | None,
    logs: Iterable[Logged],
    *,
    ledger: str,
    at: str,
    key: bytes,
    sign: Sign,
    announced: bytes | None = None,
) -> bytes:
    """The canonical bytes of a new checkpoint behind the one `before`, signed by `key`; `announced` signs the next."""
    document: dict[str, Value] = {
        "at": at,
        "checkpoint": 1 if before is None else before.n + 1,
        "format": FORMAT,
        "key": key.hex(),
        "ledger": ledger,
        "logs": [[log, head.entries, head.seal.hex()] for log, head in sorted(logs)],
        "next": None if announced is None else announced.hex(),
        "previous": None if before is None else before.digest,
    }
    document["signature"] = sign(canonical(document)).hex()
    return canonical(document)


def read(value: Value, check: Check) -> Checkpoint | str:
    """The checkpoint in a document, or what is wrong with it: its form, or its signature by the key that it names."""
    if not isinstance(value, dict) or value.keys() != _MEMBERS.keys() or value["format"] != FORMAT:
        return "it is not a checkpoint"
    if not all(isinstance(value[name], kind) for name, kind in _MEMBERS.items()):
        return "it is not a checkpoint"
    logs = _logs(value["logs"])
    hexes = (value["key"], value["next"], value["previous"])
    signature = str(value["signature"])
    if logs is None or not all(text is None or _HASH.fullmatch(str(text)) for text in hexes):
        return "it is not a checkpoint"
    signed = canonical({name: each for name, each in value.items() if name != "signature"})
    if not _SIGNATURE.fullmatch(signature) or not check(
        bytes.fromhex(str(value["key"])), signed, bytes.fromhex(signature)
    ):
        return "its signature is wrong"
    following, previous = (None if text is None else str(text) for text in hexes[1:])
    digest = sha256(canonical(value)).hexdigest()
    n, at, ledger, key = (str(value[name]) for name in ("checkpoint", "at", "ledger", "key"))
    return Checkpoint(int(n), at, ledger, logs, key, following, previous, digest)


def _logs(value: Value) -> tuple[Logged, ...] | None:
    found: list[Logged] = []
    for each in value if isinstance(value, list) else ():
        match each:
            case [int(log), int(entries), str(seal)] if log >= 0 and entries > 0 and _HASH.fullmatch(seal):
                found.append(Logged(log, Head(entries, bytes.fromhex(seal))))
            case _:
                return None
    logs = [each.log for each in found]
    return tuple(found) if logs == sorted(set(logs)) else None


class Chain:
    """Checkpoints in order, from the first on, by keys that are `trusted` (public keys, in hex)."""

    def __init__(self, ledger: str, trusted: Sequence[str]) -> None:
        self.last: Checkpoint | None = None
        self.heads: dict[int, int] = {}
        self.is_trusted = False
        self.keys: list[str] = []
        self._ledger = ledger
        self._trusted = set(trusted)

    def follow(self, found: Checkpoint) -> str | None:
        """Take the next one; return what is wrong with it, or None.

        One by another key than the one before it named must be by a trusted key. A key that nobody trusts may stand
        before a trusted one, which then vouches for it by the hashes; so look at `is_trusted` at the end.
        """
        last = self.last
        if found.ledger != self._ledger:
            return f"checkpoint {found.n} is of another ledger"
        if found.n != (1 if last is None else last.n + 1):
            return f"checkpoint {1 if last is None else last.n + 1} is missing"
        if found.previous != (None if last is None else last.digest):
            return f"checkpoint {found.n} does not follow from the one before it"
        announced = found.key if last is None else last.next or last.key
        if found.key != announced and found.key not in self._trusted:
            return f"checkpoint {found.n} is signed by key {found.key[:16]}…, which is neither trusted nor announced"
        if last is not None and found.at < last.at:
            return f"checkpoint {found.n} is older than the one before it"
        for log, head in found.logs:
            if head.entries <= self.heads.get(log, 0):
                return f"checkpoint {found.n} has log {log} end before the one before it does"
            self.heads[log] = head.entries
        self.is_trusted = found.key in self._trusted or (self.is_trusted and found.key == announced)
        if found.key not in self.keys:
            self.keys.append(found.key)
        self.last = found
        return None
