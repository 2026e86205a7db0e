"""The verifier's memory changes nothing but time (RULES.md T9).

It remembers verified prefixes on their second sight, within a bound, and compares the last signature every time. A
verifier that remembers and one that does not give the same answer to every token.
"""

import hmac
import sys
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokens import (
    CALL,
    KEY_ID,
    ROOT_KEY,
    SUBTASK,
    TEAM,
    WORKER,
    answer,
    article,
    ask,
    chain_of,
    key_of,
    mint,
    text_of,
    v1,
    verifier,
)
from tolsey import Macaroon
from tolsey.errors import DischargeMissing, TokenError, TokenForged, TokenMalformed
from tolsey.token import caveats, chain, wire
from tolsey.token.chain import ADMIN, CAPABILITY, Chain
from tolsey.token.clearing import clear
from tolsey.token.macaroon import derive_key
from tolsey.token.verifier import MEMORY_BYTES, MOST_OF_ONE, MOST_PARENTS, Memory, Verifier
from tolsey.token.wire import LIMITS, bytes_to_text


def outcome(judge: Verifier, text: str) -> Chain | str:
    try:
        return judge.verify(text)
    except TokenError as error:
        return f"{error.code}: {error.detail}"


def forged(token: Macaroon, signature: bytes = bytes(32)) -> str:
    return Macaroon(token.location, token.identifier, token.caveats, signature).to_text()


def warm(*tokens: Macaroon) -> Verifier:
    """A verifier that has seen each token three times."""
    judge = verifier()
    for token in tokens * 3:
        judge.verify(text_of(token))
    return judge


# --- what is remembered, and when


def test_a_remembered_token_gives_the_same_chain() -> None:
    judge = verifier()
    seen = [judge.verify(article().to_text()) for _ in range(4)]
    assert seen == [chain_of(article())] * 4
    assert seen[2] is seen[3]


def test_nothing_is_remembered_at_first_sight() -> None:
    judge = verifier()
    judge.verify(article().to_text())
    assert len(judge.memory) == 0
    judge.verify(article().to_text())
    assert len(judge.memory) > 0


def test_a_parent_is_remembered_by_its_children() -> None:
    """Two children of one parent are two sights of the parent, and one of each child."""
    judge = verifier()
    first, second, third = (mint(*TEAM).attenuate(f"label = c {n}", "budget = 1 USD") for n in range(3))
    judge.verify(first.to_text())
    judge.verify(second.to_text())
    assert len(judge.memory) == 1
    assert judge.verify(third.to_text()) == chain_of(third)
    assert judge.verify(mint(*TEAM).to_text()) == chain_of(mint(*TEAM))


def test_a_remembered_parent_saves_its_hmacs(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[bytes] = []
    real = hmac.digest

    def watch(key: bytes, message: bytes, name: str) -> bytes:
        digested.append(message)
        return real(key, message, name)

    parent, child = mint(*TEAM).attenuate(*SUBTASK).to_text(), article().to_text()
    judge = warm(mint(*TEAM).attenuate(*SUBTASK))
    monkeypatch.setattr(hmac, "digest", watch)
    judge.verify(parent)
    assert digested == []
    judge.verify(child)
    assert set(digested) == {text.encode() for text in WORKER}


def test_of_a_fresh_child_only_what_is_new_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first child shows that the parent is handed on; the others begin where it ends."""
    parent = mint(*TEAM).attenuate(*SUBTASK)
    judge = warm(parent)
    taken: list[bytes] = []
    real = wire.Caveat

    def watch(cid: bytes, vid: bytes | None = None, location: bytes | None = None) -> wire.Caveat:
        taken.append(cid)
        return real(cid, vid, location)

    monkeypatch.setattr(wire, "Caveat", watch)
    counts = []
    for number in range(3):
        child = parent.attenuate(f"label = child-{number} n", "budget = 1 USD")
        text, expected = child.to_text(), chain_of(child)
        taken.clear()
        assert judge.verify(text) == expected
        counts.append(len(taken))
    assert counts == [len(TEAM) + len(SUBTASK) + 2, 2, 2]


def test_the_parents_at_hand_are_bounded() -> None:
    judge = verifier()
    for number in range(2 * MOST_PARENTS):
        root = mint(*TEAM, nonce=f"{number:022}")
        for level in range(2 * MOST_OF_ONE):
            parent = root.attenuate(f"label = level-{level} n")
            for child in (parent, parent, parent.attenuate("label = leaf n")):
                judge.verify(child.to_text())
    at_hand = judge.memory._parents.values()
    assert len(at_hand) == MOST_PARENTS
    assert {len(each) for each in at_hand} == {MOST_OF_ONE}


def test_caveats_behind_a_parent_count_with_its_own() -> None:
    parent = mint(*TEAM).attenuate(*SUBTASK)
    judge = warm(parent)
    judge.verify(parent.attenuate("label = first n").to_text())
    room = LIMITS.caveats - len(parent.caveats) - 1
    for more in (room, room + 1):
        child = parent.attenuate("label = child n", *["purpose = x"] * more)
        assert outcome(judge, child.to_text()) == outcome(verifier(), child.to_text())
        assert isinstance(outcome(judge, child.to_text()), Chain) is (more == room)


def test_a_token_that_failed_leaves_nothing_behind() -> None:
    judge = verifier()
    for text in (
        forged(article()),
        mint("budget = 5 USD", minted=9).to_text(),
        mint(key_id="other").to_text(),
        ask(mint(*TEAM)).to_text(),
        text_of(mint(*TEAM), answer()),
    ) * 3:
        with pytest.raises(TokenError):
            judge.verify(text)
    assert len(judge.memory) == 0
    judge.verify(article().to_text())
    assert len(judge.memory) == 0, "a failure was counted as the first sight"


def test_v1_is_verified_and_remembered_only_as_a_whole() -> None:
    judge = verifier()
    for _ in range(3):
        assert judge.verify(bytes_to_text(v1(article()))) == chain_of(article())
    assert len(judge.memory) == 1


def test_forgetting() -> None:
    """When a key is dropped, `forget` makes its tokens fail at once."""
    keys = {KEY_ID: derive_key(ROOT_KEY)}
    judge = Verifier(CAPABILITY, keys.get)
    for _ in range(3):
        judge.verify(article().to_text())
    keys.clear()
    judge.memory.forget()
    assert len(judge.memory) == 0
    with pytest.raises(TokenForged):
        judge.verify(article().to_text())
    keys[KEY_ID] = derive_key(ROOT_KEY)
    judge.verify(article().to_text())
    assert len(judge.memory) == 0, "a sight from before was still counted"


# --- what memory never does


def test_the_last_signature_is_always_compared() -> None:
    judge = warm(article())
    wrong = bytearray(article().signature)
    for bit in range(256):
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TokenForged):
            judge.verify(forged(article(), bytes(wrong)))
        wrong[bit // 8] ^= 1 << bit % 8
    judge.verify(forged(article(), bytes(wrong)))


def test_the_signature_of_a_child_does_not_open_its_parent() -> None:
    judge = warm(article(), mint(*TEAM))
    for holder, signature in ((mint(*TEAM), article().signature), (article(), mint(*TEAM).signature)):
        with pytest.raises(TokenForged):
            judge.verify(forged(holder, signature))


def test_a_child_forged_on_a_remembered_parent_is_refused() -> None:
    judge = warm(mint(*TEAM))
    child = mint(*TEAM).attenuate(*SUBTASK)
    for signature in (mint(*TEAM).signature, bytes(32)):
        with pytest.raises(TokenForged):
            judge.verify(forged(child, signature))


def test_a_remembered_token_takes_no_discharge_that_nobody_asked_for() -> None:
    judge = warm(article())
    with pytest.raises(TokenError):
        judge.verify(text_of(article(), answer()))
    with pytest.raises(TokenError):
        judge.verify(f"{article().to_text()},{article().bind(answer()).to_text()}")


def test_a_token_with_a_third_party_caveat_needs_its_discharge_every_time() -> None:
    judge, token = verifier(), ask(mint(*TEAM))
    for _ in range(4):
        assert judge.verify(text_of(token, answer("method = GET"))) == chain_of(token, answer("method = GET"))
    with pytest.raises(DischargeMissing):
        judge.verify(token.to_text())
    assert judge.verify(text_of(token, answer())) == chain_of(token, answer())
    child = token.attenuate(*SUBTASK)
    with pytest.raises(DischargeMissing):
        judge.verify(child.to_text())


def test_kinds_never_cross() -> None:
    for kind, other in ((CAPABILITY, ADMIN), (ADMIN, CAPABILITY)):
        judge, token = verifier(kind=kind), mint("budget = 5 USD", kind=kind)
        for _ in range(3):
            judge.verify(token.to_text())
        stranger = mint("budget = 5 USD", kind=other)
        with pytest.raises(TokenForged):
            judge.verify(stranger.to_text())
        with pytest.raises(TokenForged):
            verifier(kind=other).verify(token.to_text())


def test_caveats_are_parsed_only_after_the_signature_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN.md section 2: verify is done on the caveat bytes as received, before any is parsed."""
    parsed: list[bytes] = []
    real: Callable[[bytes], caveats.Meaning] = caveats.parse_caveat

    def watch(cid: bytes) -> caveats.Meaning:
        parsed.append(cid)
        return real(cid)

    monkeypatch.setattr(chain, "parse_caveat", watch)
    for judge in (verifier(), warm(mint(*TEAM))):
        parsed.clear()
        with pytest.raises(TokenForged):
            judge.verify(forged(article()))
        assert parsed == []


# --- bounds


def test_memory_is_bounded() -> None:
    memory = Memory(most_bytes=20_000)
    chains = [chain_of(mint(f"purpose = {n}")) for n in range(40)]
    for number, one in enumerate(chains):
        for _ in range(2):
            memory.put(bytes([number]) * 32, bytes(32), one)
    assert 0 < len(memory) < 20
    kept = [number for number in range(40) if memory.get(bytes([number]) * 32) is not None]
    assert kept == list(range(40 - len(memory), 40)), "the oldest are dropped first"


def test_what_is_used_is_kept() -> None:
    memory = Memory(most_bytes=20_000)
    one = chain_of(mint("purpose = x"))
    for number in range(40):
        for _ in range(2):
            memory.put(bytes([number]) * 32, bytes(32), one)
        assert memory.get(bytes(32)) is not None


def test_what_does_not_fit_is_not_kept() -> None:
    memory = Memory(most_bytes=100)
    for _ in range(3):
        memory.put(bytes(32), bytes(32), chain_of(article()))
    assert len(memory) == 0


def test_first_sights_are_bounded() -> None:
    """A holder can make any number of children; those seen once take a bounded place."""
    memory = Memory()
    one = chain_of(mint())
    for number in range(100_000):
        memory.put(number.to_bytes(32, "big"), bytes(32), one)
    assert len(memory) == 0
    assert size_of(memory) < 16 * 1024 * 1024


def size_of(*roots: object) -> int:
    """The bytes of everything that can be reached from `roots`, but classes, modules and functions."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen[id(one)] = one
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif not isinstance(one, str | bytes | int):
            waiting += [vars(one)] if hasattr(one, "__dict__") else []
            waiting += [
                getattr(one, name)
                for kind in type(one).__mro__
                for name in getattr(kind, "__slots__", ())
                if isinstance(name, str) and name != "__weakref__" and hasattr(one, name)
            ]
    return sum(sys.getsizeof(one) for one in seen.values())


FAT = {
    "the article": [*TEAM, *SUBTASK, *WORKER],
    "many Links": [f"label = l{n} n" for n in range(30)],
    "many budgets": ["budget = 5 USD"] * 31,
    "many segments": ["scope = " + "/a" * 500] * 6,
    "long segments": ["scope = /" + "a" * 1000] * 6,
    "many patterns": ["scope = " + "/a " * 330] * 6,
    "many query rules": ["scope = /a?" + "&".join(f"{n:x}={n}" for n in range(120))] * 7,
    "many networks": ["peer = " + "::/0 " * 200] * 6,
    "many methods": ["method = " + "GET " * 250] * 6,
    "many upstreams": ["upstream = " + "a* " * 330] * 6,
    "long texts": ["purpose = " + "語" * 330] * 6,
    "what is not understood": ["?" * 1000] * 6,
}


@pytest.mark.parametrize("name", FAT)
def test_memory_is_bounded_in_true_bytes(name: str) -> None:
    """The estimate that bounds it must not be less than what is really held, or a holder could exhaust the worker."""
    judge = verifier()
    judge.memory = Memory(most_bytes=300_000)
    for n in range(60):
        token = mint("budget = 5 USD").attenuate(f"purpose = {n}", *FAT[name])
        for _ in range(2):
            judge.verify(token.to_text()).purse("USD")
    assert size_of(judge.memory) < 2 * 300_000


def test_the_memory_of_a_verifier_is_bounded_by_default() -> None:
    assert MEMORY_BYTES <= 64 * 1024 * 1024
    assert Memory()._most == verifier().memory._most == MEMORY_BYTES


# --- with memory or without, the same answers

PIECES = {
    "team": list(TEAM),
    "subtask": list(SUBTASK),
    "worker": list(WORKER),
    "bare label": ["label = x"],
    "no label": ["purpose = x", "method = GET"],
    "looks like a label": ["labels = x", "label", "label=y z"],
    "unknown": ["colour = blue"],
    "many": ["purpose = x"] * 30,
}


def family(names: list[str], minted: int | None, third: bool) -> Macaroon:
    token = mint(minted=minted or 0)
    for name in names:
        token = token.attenuate(*PIECES[name])
        if third and name == "subtask":
            token = ask(token)
    return token


TOKENS = st.tuples(
    st.lists(st.sampled_from(sorted(PIECES)), max_size=4), st.sampled_from([0, 1, 3, 4, 5, 70]), st.booleans()
)


@settings(max_examples=150)
@given(st.lists(st.tuples(TOKENS, st.integers(0, 4)), min_size=1, max_size=8))
def test_a_verifier_that_remembers_gives_the_answers_of_one_that_does_not(
    shown: list[tuple[tuple[list[str], int, bool], int]],
) -> None:
    """Families of tokens that share prefixes, in any order: whole, cut off, forged, with a discharge too many."""
    judge = verifier()
    for _ in range(3):
        for (names, minted, third), damage in shown:
            token = family(names, minted, third)
            asked = any(caveat.vid for caveat in token.caveats)
            text = [
                text_of(token, *[answer()] * asked),
                token.to_text(),
                forged(token),
                text_of(token, answer(), answer(identifier="another")),
                text_of(Macaroon("", token.identifier, token.caveats[:-1], token.signature)),
            ][damage]
            assert outcome(judge, text) == outcome(verifier(), text)


@pytest.mark.parametrize("at", range(1, 5))
def test_a_prefix_shorter_than_the_minter_s_part_is_never_a_token(at: int) -> None:
    """Whoever minted knows the signatures of the shorter ones; they are no tokens, remembered or not."""
    texts = ["label = root n", "scope = /*", "label = second m", "budget = 5 USD", "label = third o"]
    whole, short = mint(*texts), mint(*texts[:at], minted=len(texts))
    judge = warm(whole)
    for by in (verifier(), judge):
        with pytest.raises(TokenMalformed):
            by.verify(short.to_text())


def test_clearing_a_remembered_chain_gives_the_same_answer() -> None:
    judge = warm(article())
    for _ in range(2):
        assert clear(judge.verify(article().to_text()), CALL) == clear(chain_of(article()), CALL)


def test_one_verifier_never_answers_for_another_key() -> None:
    """The key id is in the bytes that the memory is keyed by."""
    keys = {"k1": derive_key(b"one"), "k2": derive_key(b"two")}
    judge = Verifier(CAPABILITY, keys.get)
    tokens = {
        (name, root): Macaroon.mint(root_key=root, identifier=mint(key_id=name).identifier)
        for name, root in product(keys, (b"one", b"two"))
    }
    for _ in range(3):
        good = [who for who, token in tokens.items() if isinstance(outcome(judge, token.to_text()), Chain)]
        assert good == [("k1", b"one"), ("k2", b"two")]
    assert key_of("k2") is None
