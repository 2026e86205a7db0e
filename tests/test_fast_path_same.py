"""A second opinion: the same answers of an upstream, well-formed and not, by way of the fast path and by way of the
passage. Both clients see the same, both ledgers charge the same, both logs say the same.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from tests.fast_paths import ANSWERS, CHUNKED, HEAD, LARGE, OK, Script, needs_wire, request
from tests.pairs import Pair, Told, assert_same, playing

pytestmark = needs_wire

CONFIG = """
[[upstream]]
name = "prefixed"
url = "http://127.0.0.1:<port>/v2"
[[route]]
path = "/x"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/lenient"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
charge = "success"
[[route]]
path = "/prefixed"
methods = ["*"]
upstream = "prefixed"
price = "0.01 USD"
"""
MUTATIONS = 600


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with playing(tmp_path_factory.mktemp("fast"), tmp_path_factory.mktemp("plain"), CONFIG) as found:
        yield found


def written(before: bytes, texts: str, after: bytes = b"") -> dict[str, bytes]:
    """Answers of which one part is written on a line each, with its escapes."""
    lines = texts.strip("\n").split("\n")
    return {line: before + line.encode("ascii").decode("unicode_escape").encode("latin-1") + after for line in lines}


NO_HEADS: Final = r"""
HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked
HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip
HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked
HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip
HTTP/1.1 200 OK\r\nTransfer-Encoding:
HTTP/1.1 200 OK\r\nContent-Length:
HTTP/1.1 200 OK\r\nContent-Length: 2, 2
HTTP/1.1 200 OK\r\nContent-Length: +2
HTTP/1.1 200 OK\r\nContent-Length: -2
HTTP/1.1 200 OK\r\nContent-Length: 0x2
HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999
HTTP/1.1 200 OK\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2
HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\n{}
HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\r\n\tContent-Length: 2
HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nContent-Length : 2
HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2
HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX\xe9: a\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2
HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2
HTTP/1.1  200 OK\r\nContent-Length: 2
HTTP/1.1 200x\r\nContent-Length: 2
HTTP/1.1 2000 OK\r\nContent-Length: 2
HTTP/1.1 099 OK\r\nContent-Length: 2
HTTP/1.1 20 OK\r\nContent-Length: 2
HTTP/1.1 200 O\rK\r\nContent-Length: 2
HTTP/1.1\r\nContent-Length: 2
HTTP/1.2 200 OK\r\nContent-Length: 2
HTTP/2 200 OK\r\nContent-Length: 2
http/1.1 200 OK\r\nContent-Length: 2
 HTTP/1.1 200 OK\r\nContent-Length: 2
ICY 200 OK\r\nContent-Length: 2
HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x
SSH-2.0-OpenSSH_9.9
"""
NO_CHUNKS: Final = r"""
2\n{}\n0\n\n
2\r\n{}\n0\r\n\r\n
2\r\n{}\r\n0\r\n\n
g\r\n{}\r\n
0x2\r\n{}\r\n0\r\n\r\n
-2\r\n{}\r\n
+2\r\n{}\r\n
 2\r\n{}\r\n
\r\n{}\r\n
2\r\n{}x\r\n0\r\n\r\n
3\r\n{}\r\n0\r\n\r\n
10000000000000002\r\n{}\r\n0\r\n\r\n
2 \r\n{}\r\n0\r\n\r\n
2\t\r\n{}\r\n0\r\n\r\n
2 5\r\n{}\r\n0\r\n\r\n
2 ;a=b\r\n{}\r\n0\r\n\r\n
2;\r\n{}\r\n0\r\n\r\n
2;a\x00b\r\n{}\r\n0\r\n\r\n
2;a\xe9\r\n{}\r\n0\r\n\r\n
2;a\rb\r\n{}\r\n0\r\n\r\n
2;a\n{}\r\n0\r\n\r\n
2\r\n{}\r\n
2\r\n{}\r\n0\r\n
2\r\n{}\r\n0
"""
NO_TRAILERS: Final = r"""
garbage
: a
X : a
X: \x01
X: a\r\n b
X: a\rb
X: a\n
Content-Length: 5
 x
"""
BROKEN: Final = {
    **written(b"", NO_HEADS, b"\r\n\r\n{}"),
    **written(CHUNKED, NO_CHUNKS),
    **written(CHUNKED + b"2\r\n{}\r\n0\r\n", NO_TRAILERS, b"\r\n\r\n"),
}

# --- where they differ, and nobody is hurt: one of the two refuses what is wrong or so good as never seen

FAST_REFUSES: Final = {
    "HTTP/1.0 has no chunks (RFC 9112, 6.1)": b"HTTP/1.0" + CHUNKED[8:] + b"2\r\n{}\r\n0\r\n\r\n",
    "chunked is said once (RFC 9112, 7)": HEAD
    + b"Transfer-Encoding: chunked\r\n"
    + CHUNKED[17:]
    + b"2\r\n{}\r\n0\r\n\r\n",
    "it is HTTP/1 that is spoken here": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/0.9 has no head": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "an answer does not begin with empty lines": b"\r\n\r\n" + OK,
    "a reason is text": b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\n{}",
    "a length has at most 18 digits": HEAD + b"Content-Length: 0000000000000000002\r\n\r\n{}",
    "a chunk's size has at most 15 digits": CHUNKED + b"0000000000000002\r\n{}\r\n0\r\n\r\n",
    "trailers have at most 64 KiB": CHUNKED + b"2\r\n{}\r\n0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "an extension has at most 64 KiB": CHUNKED + b"2;a=" + b"a" * 70_000 + b"\r\n{}\r\n0\r\n\r\n",
}
PLAIN_REFUSES: Final = {
    "space around a value is not a part of it (RFC 9110, 5.5)": HEAD
    + b"Transfer-Encoding: chunked \r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "what an interim answer says of the connection does not end it": b"HTTP/1.1 103 x\r\nConnection: close\r\n\r\n"
    + OK,
    "an interim answer of HTTP/1.0 neither": b"HTTP/1.0 100 Continue\r\n\r\n" + OK,
}

# --- what is asked

REQUESTS: Final = {
    "GET": ("GET", "/x", (), b""),
    "HEAD": ("HEAD", "/x", (), b""),
    "POST": ("POST", "/x", ("Content-Type: text/plain",), b"some body"),
    "GET and close": ("GET", "/x", ("Connection: close",), b""),
    "GET where failures are free": ("GET", "/lenient", (), b""),
    "GET below a prefix": ("GET", "/prefixed", (), b""),
}
ALL: Final = {**ANSWERS, **LARGE}
CASES: Final = [(asked, answer) for asked in REQUESTS for answer in (ALL if asked == "GET" else ANSWERS)]


def asking(pair: Pair, name: str = "GET") -> bytes:
    method, target, headers, body = REQUESTS[name]
    return request(method, target, pair.token, *headers, body=body)


def scripted(pair: Pair, answer: bytes | Script) -> Script:
    script = Script((answer,)) if isinstance(answer, bytes) else answer
    return replace(script, pieces=tuple(piece.replace(b"PORT", b"%d" % pair.actor.port) for piece in script.pieces))


Played = dict[tuple[str, str], tuple[Told, Told]]


@pytest.fixture(scope="module")
def played(pair: Pair) -> Played:
    """What came of all answers above."""
    of_get = {**BROKEN, **FAST_REFUSES, **PLAIN_REFUSES}
    scripts = {case: scripted(pair, ALL[case[1]]) for case in CASES}
    scripts |= {("GET", answer): Script((raw,)) for answer, raw in of_get.items()}
    pairs = [pair.ask(script, asking(pair, asked)) for (asked, _), script in scripts.items()]
    return dict(zip(scripts, pair.told(pairs), strict=True))


@pytest.mark.parametrize(("asked", "answer"), CASES)
def test_an_answer_is_the_same_both_ways(played: Played, asked: str, answer: str) -> None:
    fast, plain = played[asked, answer]
    assert fast == plain
    assert fast.entries
    assert fast.line


@pytest.mark.parametrize("answer", BROKEN)
def test_what_is_no_answer_is_none_both_ways(played: Played, answer: str) -> None:
    fast, plain = played["GET", answer]
    assert fast.but_for_words() == plain.but_for_words()
    assert fast.refused or fast.seen.end == "broken"


@pytest.mark.parametrize("answer", [*FAST_REFUSES, *PLAIN_REFUSES])
def test_where_they_differ_one_of_them_refuses(played: Played, answer: str) -> None:
    refuses, takes = played["GET", answer][:: 1 if answer in FAST_REFUSES else -1]
    assert refuses.refused or refuses.seen.end == "broken"
    assert (takes.seen.status, takes.seen.body, takes.seen.end, takes.seen.after) == (200, b"{}", "whole", "goes on")
    assert [entry[:2] for entry in refuses.entries] == [entry[:2] for entry in takes.entries]


# --- answers in pieces, and cut short

WHOLE: Final = {
    "a length": b"HTTP/1.1 103 x\r\nA: b\r\n\r\n" + HEAD + b"X: 1\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": CHUNKED + b"3;e=1\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n",
    "until it closes": b"HTTP/1.1 404 Not Found\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nhello",
}


def differing(pair: Pair, scripts: list[Script], *, words: bool = True) -> list[tuple[Script, Told, Told]]:
    """The scripts that do not come to the same; without `words`, whatever a refusal says."""
    pairs = [pair.ask(script, asking(pair)) for script in scripts]
    return [
        (script, fast, plain)
        for script, (fast, plain) in zip(scripts, pair.told(pairs), strict=True)
        if fast != plain and (words or fast.but_for_words() != plain.but_for_words())
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_is_cut_short_anywhere(pair: Pair, name: str) -> None:
    whole = WHOLE[name]
    assert not differing(pair, [Script((whole[:at],)) for at in range(len(whole))])


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_in_two_pieces(pair: Pair, name: str) -> None:
    whole = WHOLE[name]
    assert not differing(pair, [Script((whole[:at], whole[at:])) for at in range(1, len(whole), 2)])


# --- answers by chance

BASES: Final = [
    *WHOLE.values(),
    HEAD + b"Content-Type: text/plain\r\nX-One: 1\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 302 Found\r\nLocation: /x/y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nX-One: 1\r\n\r\n",
    b"HTTP/1.1 503 Bad\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nhello",
]
PIECES: Final = [
    *(bytes([byte]) for byte in b'\r\n\t :;,="\0\1\x7f\x80\xff019afgxAZ_-+.'),
    *(b"\r\n", b"\r\n\r\n", b"chunked", b"0\r\n\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
]
EXCUSED: Final = {
    "an empty line before a first line": rb"(\A|\r\n\r\n)[\r\n]+HTTP/",
    "a reason that is no text": rb"(\A|\r\n\r\n)HTTP/1\.[01] \d{3} [^\r\n]*[\0-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "chunked twice": rb"(?i)\r\ntransfer-encoding:[\s\S]*\r\ntransfer-encoding:[\s\S]*\r\n\r\n",
    "chunks of HTTP/1.0": rb"(?i)\A(HTTP/1\.1 1[\s\S]*)?HTTP/1\.0[\s\S]*\r\ntransfer-encoding:",
    "another version": rb"(\A|\r\n\r\n)HTTP/(0\.9|2\.0) ",
}
"""What the fast path alone may refuse, as above."""


def mutated(chance: random.Random, raw: bytes) -> bytes:
    """The answer with one to three mistakes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at, piece = chance.randrange(len(raw) + 1), chance.choice(PIECES)
        match chance.randrange(6):
            case 0:
                raw = raw[:at] + piece + raw[at:]
            case 1:
                raw = raw[:at] + piece + raw[at + 1 :]
            case 2:
                raw = raw[:at] + raw[at + chance.choice((1, 1, 2, 3)) :]
            case 3:
                lines = raw.split(b"\r\n")
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                raw = b"\r\n".join(lines)
            case 4:
                raw = raw[:at] if chance.random() < 0.5 else raw + piece
            case _:
                raw = raw[:at] + raw[at : at + 3].swapcase() + raw[at + 3 :]
    return raw


def is_excused(script: Script, fast: Told) -> bool:
    return fast.refused and any(re.search(pattern, script.pieces[0]) for pattern in EXCUSED.values())


@pytest.mark.parametrize("seed", range(3))
def test_answers_with_mistakes(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    scripts = [Script((mutated(chance, chance.choice(BASES)),)) for _ in range(MUTATIONS // 3)]
    found = differing(pair, scripts, words=False)
    wrong = [script.pieces[0] for script, fast, _ in found if not is_excused(script, fast)]
    assert wrong == []
    assert len(found) < len(scripts) // 5, "hardly any of them was compared"


# --- in the end


def test_all_of_them_took_the_way_that_they_should_have(pair: Pair) -> None:
    assert_same(pair)
