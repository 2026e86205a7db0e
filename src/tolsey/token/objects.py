"""JSON objects in credentials, read so that nobody else can read them otherwise."""

import json
from typing import Any


def read_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in UTF-8, in which no key stands twice; None for anything else."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found
