"""Visit every state of the model: `python -m proofs [--mutation NAME]`."""

import argparse
import sys

from proofs.explore import explore
from proofs.model import INVARIANTS, MUTATIONS


def main() -> int:
    """Explore, and say what was found. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proofs", description="Visit every state of the ledger's model.")
    parser.add_argument("--mutation", choices=MUTATIONS, default="", help="leave out one rule, to see what falls")
    found = explore(parser.parse_args().mutation)
    for number, step in enumerate(found.trace, 1):
        print(f"{number:3} {step}")
    if found.violated is not None:
        print(f"{found.violated} does not hold after these steps ({found.states} states visited)")
        return 1
    print(f"{found.states} states; in all of them hold {', '.join(INVARIANTS)}, REFUSED_ONLY_IF_SHORT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
