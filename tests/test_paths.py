"""One path is matched, priced, scoped and forwarded: which paths are in canonical form, what a pattern means, and the
query rules (DESIGN.md section 5, RULES.md H2 and H3).
"""

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.call import Pattern, parse_pattern, path_fault, query_fault, query_pairs
from tolsey.errors import PatternInvalid

CANONICAL = [
    "/",
    "/a",
    "/a/",
    "/api/v1/search",
    "/A",
    "/.well-known/x",
    "/...",
    "/a.b",
    "/a..b",
    "/..a",
    "/a..",
    "/~user/-_.",
    "/a;b=c/d",
    "/a,b:c@d!e$f&g'h(i)j*k+l=m",
    "/a%20b",
    "/caf%C3%A9",
    "/caf%c3%a9",
    "/%FF",
    "/%3F%23%5B%5D%40%3A",
    "/a%2Ab",
    "/a%3Bb",
    '/a|b^c`d{e}f"<>',
]

NOT_CANONICAL = [
    "",
    "a",
    "*",
    "http://host/a",
    "//",
    "//a",
    "/a//b",
    "/a//",
    "/.",
    "/..",
    "/./a",
    "/../a",
    "/a/.",
    "/a/..",
    "/a/./b",
    "/a/../b",
    "/%2e",
    "/%2e%2e/a",
    "/a/%2E%2e/b",
    "/a/.%2e/b",
    "/a%2fb",
    "/a%2Fb",
    "/a%5cb",
    "/a%5Cb",
    "/a\\b",
    "/\\",
    "/a%25b",
    "/a%252e%252e",
    "/a%00b",
    "/a%0Ab",
    "/a%1f",
    "/a%7F",
    "/a%7e",
    "/%41",
    "/%61",
    "/%7a",
    "/%30",
    "/%2D",
    "/%5F",
    "/a%",
    "/a%2",
    "/a%zz",
    "/a%2g",
    "/a%u0041",
    "/a% 20",
    "/%",
    "/a b",
    "/a\tb",
    "/a\x00b",
    "/a\rb",
    "/a\nb",
    "/a\n",
    "/a\x7f",
    "/a?b",
    "/a#b",
]


@pytest.mark.parametrize("path", CANONICAL)
def test_a_path_in_canonical_form(path: str) -> None:
    assert path_fault(path.encode()) is None


@pytest.mark.parametrize("path", NOT_CANONICAL)
def test_a_path_that_is_not_is_refused(path: str) -> None:
    assert path_fault(path.encode())
    with pytest.raises(PatternInvalid):
        parse_pattern(path.replace("?", "%3F%2E") if "?" in path else path)


@pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)])
def test_bytes_outside_0x21_to_0x7e_are_refused(byte: int) -> None:
    assert path_fault(b"/a" + bytes([byte]))
    assert query_fault(b"a=" + bytes([byte]))


PIECES = st.sampled_from(["/", ".", "a", "%41", "%2e", "%2F", "%5c", "%25", "%C3%A9", "%20", "%", "\\", ";", "\0", "*"])


@given(st.lists(PIECES, max_size=6))
def test_a_canonical_path_has_one_spelling_for_its_segments(pieces: list[str]) -> None:
    """No escape is left that another spelling could stand for, and decoding changes no segment boundary."""
    path = ("/" + "".join(pieces)).encode()
    if path_fault(path) is not None:
        return
    for segment in path[1:].split(b"/"):
        decoded = unquote_to_bytes(segment)
        assert not set(decoded) & set(b"/\\\x00\n")
        assert decoded not in (b".", b"..")
    assert b"" not in path[1:].split(b"/")[:-1]
    for escape in re.findall(rb"%(..)", path):
        assert not bytes.fromhex(escape.decode()).isalnum()


PATTERNS: dict[str, tuple[list[str], list[str]]] = {
    "/": (["/"], ["/a"]),
    "/a": (["/a"], ["/", "/a/", "/A", "/ab", "/a/b", "/b"]),
    "/a/": (["/a/"], ["/a", "/a/b"]),
    "/api/v1/*": (
        ["/api/v1/a", "/api/v1/a/", "/api/v1/a/b/c", "/api/v1/*"],
        ["/api/v1", "/api/v1/", "/api/v10/a", "/api", "/api/V1/a", "/x/api/v1/a"],
    ),
    "/*": (["/", "/a", "/a/", "/a/b"], []),
    "/api/*/items": (
        ["/api/v1/items", "/api/*/items", "/api/a%20b/items"],
        ["/api/items", "/api/v1/v2/items", "/api/v1/items/", "/api/v1/item"],
    ),
    "/*/items": (["/a/items"], ["/items", "/a/b/items"]),
    "/*/": (["/a/"], ["/", "/a", "/a/b"]),
    "/*/*": (["/a/b", "/a/b/c", "/a/b/"], ["/", "/a", "/a/"]),
    "/a/*/": (["/a/b/"], ["/a/", "/a/b", "/a/b/c"]),
    "/a/*/*": (["/a/b/c", "/a/b/c/d", "/a/b/c/"], ["/a", "/a/b", "/a/b/"]),
    "/a%20b": (["/a%20b"], ["/a", "/a+b"]),
    "/caf%C3%A9": (["/caf%C3%A9", "/caf%c3%a9"], ["/cafe"]),
    "/a;b": (["/a;b", "/a%3Bb", "/a%3bb"], ["/a"]),
    "/a%2A": (["/a*", "/a%2A"], ["/a", "/ab"]),
    "/%2A": (["/*", "/%2A"], ["/a"]),
}


@pytest.mark.parametrize("text", PATTERNS)
def test_a_pattern_means_these_paths(text: str) -> None:
    meant, others = PATTERNS[text]
    pattern = parse_pattern(text)
    assert [path for path in meant + others if pattern.matches_path(path)] == meant


@pytest.mark.parametrize(
    "text",
    [
        "/a*",
        "/*a",
        "/a*b/c",
        "/**",
        "/a/**",
        "/a?",
        "/a?&",
        "/a?=b",
        "/a?x=1&x=1",
        "/a?x=1&x=2",
        "/a?x=1&X=2",
        "/a?x=1&x[]=2",
        "/a?x=1;y=2",
        "/a?x=%",
        "/a?x=%zz",
        "/a?x=1#y",
        "/a?x=a b",
        "/ü",
        "/a?x=ü",
        "/" + "a" * 1024,
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PatternInvalid):
        parse_pattern(text)


def test_the_longest_pattern_has_1024_characters() -> None:
    assert parse_pattern("/" + "a" * 1023).matches_path("/" + "a" * 1023)


QUERIES: dict[str, tuple[list[str], list[str]]] = {
    "source=arxiv": (
        [
            "source=arxiv",
            "source=arxiv&q=agents",
            "q=agents&source=arxiv",
            "&source=arxiv&",
            "source=%61rxiv",
            "%73ource=arxiv",
            "source=arxiv&=x",
            "source=arxiv&q",
            "source=arxiv&q=a=b",
            "source=arxiv&sources=x",
            "source=arxiv&resource=x",
            "source=arxiv&source-x=y",
        ],
        [
            "",
            "q=agents",
            "source",
            "source=",
            "source=pubmed",
            "source=Arxiv",
            "source=arxiv+",
            "source=+arxiv",
            "source=arxiv%00",
            "source=arxi",
            "source=arxivx",
            "source=arxiv=",
            "source==arxiv",
            "source=arxiv&source=arxiv",
            "source=arxiv&source=pubmed",
            "source=pubmed&source=arxiv",
            "source=arxiv&source",
            "source=arxiv&%73ource=pubmed",
            "source=arxiv&Source=pubmed",
            "source=arxiv&SOURCE=arxiv",
            "Source=arxiv",
            "source=arxiv&source[]=pubmed",
            "source=arxiv&source%5B%5D=pubmed",
            "source=arxiv&source[0]=pubmed",
            "source=arxiv&source[=pubmed",
            "source=arxiv&source.x=pubmed",
            "source=arxiv&source%2Ex=pubmed",
            "source=arxiv&Source[a]=pubmed",
            "source=arxiv&source%00=pubmed",
            "source=arxiv&source%00x=pubmed",
            "source=arxiv&+source=pubmed",
            "source=arxiv&%20source=pubmed",
            "source=arxiv;q=agents",
            "source=arxiv&q=a;b",
            "source=arxiv;",
            "source=arxiv;source=pubmed",
            "source=arxiv&q=%",
            "source=arxiv&q=%2",
            "source=arxiv&q=%zz",
            "source=%E4arxiv",
        ],
    ),
    "q=a+b": (["q=a+b", "q=a%20b"], ["q=a%2Bb", "q=ab", "q=a++b"]),
    "q=a%2Bb": (["q=a%2Bb", "q=a%2bb"], ["q=a+b", "q=a%20b"]),
    "q=%252e": (["q=%252e", "q=%252%65"], ["q=%2e", "q=."]),
    "q=%3B": (["q=%3B", "q=%3b"], ["q=;"]),
    "q=%26": (["q=%26"], ["q=&", "q="]),
    "q=": (["q=", "q", "q&x=1"], ["", "q=1", "q=&q="]),
    "q": (["q=", "q"], ["q=1"]),
    "user_id=7": (["user_id=7"], ["user_id=7&user+id=8", "user_id=7&user.id=8&user_id=8", "user_id=7&User_Id=8"]),
    "a=1&b=2": (["a=1&b=2", "b=2&a=1"], ["a=1", "b=2", "a=2&b=1", "a=1&b=2&B=3"]),
    "caf%C3%A9=1": (["caf%C3%A9=1", "caf%c3%a9=1"], ["caf%C3%A9=2", "caf=1"]),
}


@pytest.mark.parametrize("rule", QUERIES)
def test_a_query_rule_means_these_queries(rule: str) -> None:
    meant, others = QUERIES[rule]
    pattern = parse_pattern(f"/a?{rule}")
    assert [query for query in meant + others if pattern.query_refusal(query) is None] == meant


@pytest.mark.parametrize("key", ["%C5%BFource", "SOURC%45", "%E2%84%AAey"])
def test_a_key_that_differs_only_in_unicode_case_is_refused(key: str) -> None:
    """A long s is an `s`, and the Kelvin sign a `k`, to those who fold case as Unicode does (RULES.md H3)."""
    pattern = parse_pattern("/a?source=arxiv&key=1")
    assert pattern.query_refusal("source=arxiv&key=1") is None
    assert pattern.query_refusal(f"source=arxiv&key=1&{key}=2")


def test_a_pattern_without_a_query_says_nothing_of_queries() -> None:
    for query in ("", "a;b", "%", "a=1&a=2"):
        assert parse_pattern("/a").query_refusal(query) is None


@pytest.mark.parametrize("query", ["", "a=1", "a;b", "%", "a=%zz", "?", "a[]=1&b={}|\\"])
def test_a_query_that_can_be_forwarded(query: str) -> None:
    assert query_fault(query.encode()) is None


@pytest.mark.parametrize("query", ["#", "a=1#b", "a b", "a\nb", "a\x00", "\x7f"])
def test_a_query_that_cannot(query: str) -> None:
    assert query_fault(query.encode())


def test_a_query_is_split_on_ampersands_and_decoded_once() -> None:
    assert query_pairs("a=1&b=%2526&&c&=d&e+f=g+h&i=j=k") == [
        ("a", "1"),
        ("b", "%26"),
        ("c", ""),
        ("", "d"),
        ("e f", "g h"),
        ("i", "j=k"),
    ]
    with pytest.raises(ValueError, match="escape"):
        query_pairs("a=%4")


# --- within

SEGMENT = st.sampled_from([None, None, "a", "b", "v1", "*", "A"])
RULE = st.sampled_from(["x=1", "x=2", "y=1", "z=", "x%5B=1"])
KEYED = st.sampled_from(["x=1", "x=2", "y=1", "z=", "X=1", "x[]=1", "x%5B=1", "w", "x=%31", "y=1;"])


def write(segments: list[str | None], rest: bool, rules: list[str]) -> str:
    """The text of a pattern with these decoded segments."""
    words = ["*" if segment is None else segment.replace("*", "%2A") for segment in segments]
    return "/" + "/".join(words + ["*"] * rest) + ("?" + "&".join(rules) if rules else "")


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    segments: list[str | None] = list(draw(st.lists(SEGMENT, max_size=3)))
    rest = draw(st.booleans())
    if not rest and (not segments or draw(st.booleans())):
        segments.append("")
    rules = {rule[0]: rule for rule in draw(st.lists(RULE, max_size=2))}
    return parse_pattern(write(segments, rest, list(rules.values())))


@st.composite
def widened(draw: st.DrawFn, mine: Pattern) -> Pattern:
    """A pattern that means at least what `mine` means: segments starred, the end cut off, rules left out."""
    segments = [None if segment and draw(st.booleans()) else segment for segment in mine.segments]
    keep = draw(st.integers(0, len(segments)))
    cut = keep == 0 or (keep < len(segments) and segments[keep] != "")
    rules = [f"{quote(name)}={value}" for name, value in mine.query if draw(st.booleans())]
    return parse_pattern(write(segments[:keep] if cut else segments, mine.rest or cut, rules))


@st.composite
def paths(draw: st.DrawFn, like: Pattern) -> str:
    """A path near what `like` means."""
    segments = [segment if segment is not None else draw(st.sampled_from("abA")) for segment in like.segments]
    segments += draw(st.lists(st.sampled_from(["a", "b", "v1", "*"]), max_size=2)) if like.rest else []
    path = "/" + "/".join(segment.replace("*", "%2A") for segment in segments)
    return path + ("/" if path[-1] != "/" and draw(st.booleans()) else "")


@given(st.data(), patterns())
def test_within_means_that_the_other_matches_too(data: st.DataObject, mine: Pattern) -> None:
    other = data.draw(st.one_of(patterns(), widened(mine)))
    path = data.draw(paths(mine))
    query = "&".join(data.draw(st.lists(KEYED, max_size=3)))
    if mine.within(other) and mine.matches_path(path) and mine.query_refusal(query) is None:
        assert other.matches_path(path)
        assert other.query_refusal(query) is None


@given(st.data(), patterns())
def test_a_pattern_is_within_every_wider_one(data: st.DataObject, mine: Pattern) -> None:
    assert mine.within(data.draw(widened(mine)))


@given(patterns())
def test_a_pattern_is_within_itself(pattern: Pattern) -> None:
    assert pattern.within(pattern)


@pytest.mark.parametrize(
    ("mine", "other", "is_within"),
    [
        ("/api/v1/search?source=arxiv", "/api/v1/search", True),
        ("/api/v1/search", "/api/v1/*", True),
        ("/api/v1/*", "/*", True),
        ("/api/v1/*", "/api/*", True),
        ("/api/*/items", "/api/*", True),
        ("/api/v1/items", "/api/*/items", True),
        ("/a/*/b/*", "/a/*", True),
        ("/", "/*", True),
        ("/a?x=1&y=2", "/a?y=2", True),
        ("/api/v1/*", "/api/v1/search", False),
        ("/api/v1/search", "/api/v1/search?source=arxiv", False),
        ("/a?x=1", "/a?x=2", False),
        ("/a", "/a/*", False),
        ("/a/", "/a/*", False),
        ("/a", "/a/", False),
        ("/a/", "/*/*", False),
        ("/*", "/*/*", False),
        ("/*", "/a/*", False),
        ("/a/*", "/a/*/*", False),
        ("/a/*", "/a/b", False),
        ("/a/*/c", "/a/b/c", False),
    ],
)
def test_within(mine: str, other: str, is_within: bool) -> None:
    assert parse_pattern(mine).within(parse_pattern(other)) is is_within
