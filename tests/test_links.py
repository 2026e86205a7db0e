"""Every relative link in the Markdown files leads to a file that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Return the targets of Markdown links that stay in the repository, without their anchors; code is no link."""
    targets = (match[1] or match[2] for match in _LINK.finditer(_CODE.sub("", text)))
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#", t, re.IGNORECASE)]


def test_links_are_found() -> None:
    text = "[a](b.md#c) ![d](<e.png>) [f](https://g.example) [h](#i) `[j](k.md)`\n```\n[l](m.md)\n```\n[n]: o.md\n"
    assert links(text) == ["b.md", "e.png", "o.md"]


def test_links_in_the_docs_resolve() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert pages
    broken = [
        f"{page.relative_to(ROOT).as_posix()}: {target}"
        for page in sorted(pages)
        for target in links(page.read_text("utf-8"))
        if not (ROOT / target.lstrip("/") if target.startswith("/") else page.parent / target).exists()
    ]
    assert not broken, "links that lead nowhere:\n" + "\n".join(broken)
