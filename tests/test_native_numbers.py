"""What is said in Rust and in Python is the same: limits, and the numbers by which the two understand each other."""

import re

import pytest

from tests.swarm import ROOT
from tolsey.gateway import fast_path, native, server, upstream, upstream_connection
from tolsey.gateway.client import Cut

EVENTS = ("ASK", "READY", "DIAL", "HEAD", "DONE", "FAILED", "GONE", "STRANGE", "BODY")
LIMITS: list[tuple[str, str, float]] = [
    ("requests", "MAX_HEAD", server.MAX_HEAD_BYTES),
    ("answer", "MAX_HEAD", upstream_connection.MAX_HEAD_BYTES),
    ("exchanges", "WHOLE", upstream.WHOLE_BYTES),
    ("exchanges", "MAX_BUFFERED", server.MAX_BUFFERED),
    ("exchanges", "MAX_BUFFERED", upstream_connection.MAX_BUFFERED),
    ("exchanges", "MOST_IDLE", upstream.MOST_IDLE),
    ("wire", "IDLE", server.IDLE_SECONDS),
    ("wire", "UPSTREAM_IDLE", upstream_connection.IDLE_SECONDS),
]


def said(file: str, name: str) -> int:
    """A constant of the wire; of times, the seconds."""
    text = (ROOT / f"native/src/{file}.rs").read_text()
    (value,) = re.findall(rf"^\s*(?:pub(?:\(crate\))? )?const {name}: \w+ = ([0-9A-Z_ *]+);", text, re.MULTILINE)
    product = 1
    for factor in value.replace("SECOND", "1").split("*"):
        product *= int(factor.strip().replace("_", ""))
    return product


@pytest.mark.parametrize(("file", "name", "value"), LIMITS)
def test_a_limit_is_the_same_on_both_ways(file: str, name: str, value: float) -> None:
    assert said(file, name) == value


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_has_one_number(name: str) -> None:
    assert said("events", name) == getattr(native, name)


def test_a_cut_has_one_number() -> None:
    cuts = {said("events", "SILENT"): Cut.SILENT, said("events", "TOO_LONG"): Cut.TOO_LONG}
    cuts[said("events", "CUT")] = Cut.REVOKED
    assert cuts == fast_path._CUTS


def test_every_fault_of_an_answer_has_its_words() -> None:
    text = (ROOT / "native/src/answer.rs").read_text()
    (faults,) = re.findall(r"pub enum Fault \{(.*?)\n\}", text, re.DOTALL)
    assert {int(number) for number in re.findall(r"= (\d+),", faults)} == set(native.BROKEN)
