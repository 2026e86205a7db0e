"""Write delegations.json: what handing on writes and refuses, and what tokens amount to, for every language that does.

    python -m tests.vectors.delegations

The nonce is fixed. The caveats and codes below are written by hand from DESIGN.md and RULES.md; the bytes and what
`inspect` says are computed. tests/test_vectors.py holds the Python SDK against the file, js/tolsey.test.js the
JavaScript one.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.vectors import generate
from tolsey import Macaroon, inspect

HERE = Path(__file__).parent
NONCE = "AAECAwQFBgcI"
"""Base64url of the bytes 0 to 8."""

LABEL = f"label = worker {NONCE}"
ALL = {
    "budget": "50 USD",
    "scope": "/api/v1/search?source=arxiv",
    "expires": "2026-06-29",
    "caveats": ["method = GET", "depth = 0", "purpose = ä, ≤, 語"],
}

Case = tuple[list[str], dict[str, Any], list[str] | str]
"""The parent's caveats, what is asked for beside the label, and the caveats that are appended or a code."""

CASES: list[Case] = [
    (generate.TEAM, {}, [LABEL]),
    (
        generate.TEAM,
        ALL,
        [LABEL, f"scope = {ALL['scope']}", "expires = 2026-06-29", *ALL["caveats"], "budget = 50 USD"],
    ),
    (generate.TEAM, {"caveats": ["budget = 5 USD", "rate = 5/second"]}, [LABEL, "rate = 5/second", "budget = 5 USD"]),
    (
        ["purpose = x"],
        {"scope": "/, /* /*/a~!$&'()+,;=:@-._/%C3%A4, /a/?b=%2F&c=*/[]"},
        [LABEL, "scope = /, /* /*/a~!$&'()+,;=:@-._/%C3%A4, /a/?b=%2F&c=*/[]"],
    ),
    (generate.TEAM, {"label": "two words"}, [f"label = two words {NONCE}"]),
    (generate.TEAM, {"caveats": ["purpose = " + "x" * 1014]}, [LABEL, "purpose = " + "x" * 1014]),
    (generate.TEAM, {"budget": "10000.000000000 USD"}, [LABEL, "budget = 10000.000000000 USD"]),
    (generate.TEAM, {"budget": "10000.000000001 USD"}, "caveat_wider"),
    (generate.TEAM, {"budget": "10001 USD"}, "caveat_wider"),
    (generate.TEAM, {"budget": "20000 EUR"}, [LABEL, "budget = 20000 EUR"]),
    (generate.TEAM, {"budget": "20000 USD/day"}, [LABEL, "budget = 20000 USD/day"]),
    (["budget = 20 USD/day"], {"budget": "20.1 USD/day"}, "caveat_wider"),
    (["budget = 20 USD/day"], {"budget": "30 USD/week"}, [LABEL, "budget = 30 USD/week"]),
    (generate.TEAM, {"expires": "2026-07-01T00:00:00Z"}, [LABEL, "expires = 2026-07-01T00:00:00Z"]),
    (generate.TEAM, {"expires": "2026-07-01T02:00:00+02:00"}, [LABEL, "expires = 2026-07-01T02:00:00+02:00"]),
    (generate.TEAM, {"expires": "2026-07-01T00:00:00.000000001Z"}, "caveat_wider"),
    (generate.TEAM, {"expires": "2026-07-01"}, "caveat_wider"),
    (["calls = 1000", "rate = 60/minute"], {"caveats": ["calls = 1001"]}, "caveat_wider"),
    (["calls = 1000", "rate = 60/minute"], {"caveats": ["rate = 61/minute"]}, "caveat_wider"),
    (["calls = 1000", "rate = 60/minute"], {"caveats": ["rate = 61/hour"]}, [LABEL, "rate = 61/hour"]),
    (["calls = 100/hour"], {"caveats": ["calls = 101/hour"]}, "caveat_wider"),
    (["max-price = 1 USD"], {"caveats": ["max-price = 1.000000001 USD"]}, "caveat_wider"),
    (["max-price = 1 USD"], {"caveats": ["max-price = 2 sat"]}, [LABEL, "max-price = 2 sat"]),
    (["depth = 2"], {"caveats": ["depth = 1"]}, [LABEL, "depth = 1"]),
    (["depth = 2"], {"caveats": ["depth = 2"]}, "caveat_wider"),
    (["depth = 1", "label = a b"], {}, "caveat_wider"),
    (["depth = 0"], {}, "caveat_wider"),
    (["colour = blue"], {}, [LABEL]),
    *(
        (generate.TEAM, {name: value}, "caveat_invalid")
        for name, values in {
            "label": ["", " ", " x", "x ", "a\nb", "a\x00b", "x" * 128],
            "budget": ["5", "5 DOGE", "-5 USD", "5e3 USD", "NaN USD", "5 USD/year", "5.0000000001 USD", "05 USD", ""],
            "expires": ["tomorrow", "2026-02-30", "2026-06-30T25:00:00Z", "2026-06-30T18:00:00", "0000-01-01", "5m"],
            "scope": ["api", "/a//b", "/a/../b", "/ä", "/a#b", "/a\\b", "/a*", "/%zz", "/a?", "/a?b;c", "", "/a ,"],
        }.items()
        for value in values
    ),
    *(
        (generate.TEAM, {"caveats": [caveat]}, "caveat_invalid")
        for caveat in [
            "colour = blue",
            "tool = [x]",
            "method",
            "method = PULL",
            "method = get",
            "Method = GET",
            "label = another one",
            "purpose =",
            "purpose = a\u2028b",
            "calls = 1.5",
            "calls = 5/fortnight",
            "rate = 5",
            "rate = 0/minute",
            "depth = -1",
            "max-price = 1",
            "peer = somewhere",
            "model = a b?",
            "",
            "purpose = " + "x" * 1015,
        ]
    ),
    (["purpose = x"] * 63, {"budget": "1 USD"}, "caveat_invalid"),
    ([f"label = l{n} n" for n in range(31)], {}, "caveat_invalid"),
    (["budget = 5 USD"] * 32, {"budget": "1 USD"}, "caveat_invalid"),
    (
        ["purpose = " + "x" * 1000] * 7 + ["purpose = " + "x" * 980],
        {"caveats": ["purpose = " + "y" * 40]},
        "caveat_invalid",
    ),
]

INSPECTED = [
    ["budget = 9 USD", "budget = 7 sat", "budget = 3.50 USD", "budget = 8 USD/day", "budget = 7 USD/day"],
    ["max-price = 2 USD", "max-price = 1 USD", "calls = 9/hour", "calls = 50", "calls = 7/hour", "rate = 5/minute"],
    ["expires = 2026-06-30T18:00:00.9+02:00", "expires = 9999-12-31", "label = a", "scope = /a,  /b/*", "method = GET"],
    ["expires = 9999-12-31"],
    ["scope=/x", "colour = blue", "tool = [x]", "budget = 5 DOGE", "label = one two three n", "purpose = ä = b"],
]
"""The caveats of tokens to look at, beside those of tolsey.json."""


def parent_of(caveats: list[str]) -> Macaroon:
    """A token whose minter wrote these caveats."""
    identifier = f"tolsey:1:vectors:AAAAAAAAAAAAAAAAAAAAAA:{len(caveats)}".encode()
    return Macaroon.mint(root_key=generate.ROOT_KEY, identifier=identifier).attenuate(*caveats)


def delegation(caveats: list[str], options: dict[str, Any], wanted: list[str] | str) -> dict[str, Any]:
    """One case with the bytes of both tokens."""
    parent = parent_of(caveats)
    found: dict[str, Any] = {"parent": parent.to_text(), "options": {"label": "worker"} | options}
    if isinstance(wanted, str):
        return found | {"code": wanted}
    return found | {"caveats": wanted, "child": parent.attenuate(*wanted).to_text()}


def inspection(text: str) -> dict[str, Any]:
    """What a token says. What is wrong with a caveat is worded freely, so that only its text is here."""
    seen = asdict(inspect(text))
    problems = [problem.partition("': ")[0].removeprefix("'") for problem in seen.pop("problems")]
    return {"token": text, "says": seen | {"problems": problems}}


def build() -> str:
    """The whole file."""
    texts = [token["text"] for token in json.loads((HERE / "tolsey.json").read_text("utf-8"))["tokens"]]
    texts += [parent_of(caveats).to_text() for caveats in INSPECTED]
    document = {
        "about": "What handing on writes or refuses, and what tokens say; written by delegations.py.",
        "nonce": NONCE,
        "delegations": [delegation(*case) for case in CASES],
        "inspections": [inspection(text) for text in texts],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "delegations.json").write_text(build(), "utf-8")
