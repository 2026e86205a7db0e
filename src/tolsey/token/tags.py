"""Tags: what a caller says a call is for (`Tolsey-Tag: team=research`), as far as its token allows that.

A tag counts only where the minter wrote a `tag` caveat with its name; what holders append can only restrict its values.
Nothing else is decided by a tag: it goes into entries, reports and metrics.
"""

import re
from typing import Final

from tolsey.errors import Refusal
from tolsey.token.caveats import glob_matches
from tolsey.token.chain import Chain, TagAt

MAX_TAGS: Final = 8
"""How many tags one call may have."""

MAX_HEADER: Final = 1024
"""The longest `Tolsey-Tag`, in characters."""

Tags = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""

_PAIR = re.compile(r"([a-z][a-z0-9-]{0,31})=([A-Za-z0-9_.:/@+-]{1,64})", re.ASCII)


def tags_of(chain: Chain, header: str) -> Tags | Refusal:
    """The tags that count for a call of `chain` with that `Tolsey-Tag` (`""` for none; several are joined by commas).

    A name that no caveat of the minter has is left out. One that the minter gives a single value has it without being
    asked for.
    """
    allowed = [tag for tag in chain.tags if tag.minted]
    if not allowed:
        return ()
    asked = _read(header)
    if isinstance(asked, Refusal):
        return asked
    found: dict[str, str] = {}
    for name in {name for tag in allowed for name, _ in tag.alternatives}:
        value = asked.get(name) or _only(allowed, name)
        if value is None:
            continue
        for tag in chain.tags:
            globs = [glob for other, glob in tag.alternatives if other == name]
            if globs and not any(glob_matches(glob, value) for glob in globs):
                return _refusal(chain, tag, f"the tag {name}={value} is not allowed")
        found[name] = value
    return tuple(sorted(found.items()))


def write_tags(tags: Tags) -> str:
    """`project=apollo team=research`."""
    return " ".join([f"{name}={value}" for name, value in tags])


def _only(allowed: list[TagAt], name: str) -> str | None:
    globs = {glob for tag in allowed for other, glob in tag.alternatives if other == name}
    value = globs.pop()
    return value if not globs and "*" not in value else None


def _read(header: str) -> dict[str, str] | Refusal:
    pairs: dict[str, str] = {}
    words = [word.strip() for word in header.split(",")] if len(header) <= MAX_HEADER else ["?"]
    for word in words:
        match = _PAIR.fullmatch(word)
        if match is None and not word:
            continue
        if match is None or match[1] in pairs or len(pairs) == MAX_TAGS:
            return Refusal(
                "request_invalid",
                f"Tolsey-Tag is written 'team=research, project=apollo': {MAX_TAGS} at most, each once",
            )
        pairs[match[1]] = match[2]
    return pairs


def _refusal(chain: Chain, tag: TagAt, detail: str) -> Refusal:
    link = chain.links[tag.link]
    return Refusal("caveat_refused", detail, link=link.label, prefix_id=link.prefix_id, caveat=tag.text)
