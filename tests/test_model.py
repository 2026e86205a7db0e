"""The model of the protocol (`proofs/`): nothing falls in any state of it, and it would notice.

Two calls here; `make proofs` visits every state of three, which takes a minute.
"""

import subprocess
import sys

import pytest

from proofs.explore import explore
from proofs.model import INVARIANTS, MUTATIONS
from tests.ledgers import ROOT


def test_every_invariant_holds_in_every_state() -> None:
    found = explore(calls=2)
    assert (found.violated, found.trace) == (None, ())
    assert found.states > 10_000


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_without_a_rule_its_invariant_falls(mutation: str) -> None:
    found = explore(mutation)
    assert found.violated == MUTATIONS[mutation]
    assert len(found.trace) <= 8, "the shortest story"


def test_each_invariant_falls_somewhere() -> None:
    assert set(MUTATIONS.values()) == {*INVARIANTS, "REFUSED_ONLY_IF_SHORT"}


def test_the_story_is_printed() -> None:
    command = [sys.executable, "-m", "proofs", "--mutation", "no tombstone is set"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "  1 call 0 asks",
        "  2 the answer about call 0 is lost",
        "  3 the doubt about call 0 is settled",
        "  4 the reserve of call 0 is committed",
        done.stdout.splitlines()[-1],
    ]
    assert done.stdout.splitlines()[-1].startswith("NO_PHANTOM does not hold after these steps")
