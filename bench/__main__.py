"""The command: ``python -m bench`` for speed, ``python -m bench memory`` for the memory of a worker, ``python -m bench
ledger`` for the ledger alone, on both engines, ``python -m bench flood`` for what strangers cost who do not pay,
``python -m bench workers`` for two workers against one, ``python -m bench fresh`` for sub-tokens that are new.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from bench import (
    BenchError,
    Missing,
    flood,
    fresh,
    gateway,
    install,
    ledger,
    machine,
    memory,
    page,
    quick,
    report,
    sheets,
    speed,
    steady,
    workers,
)
from bench.contestants import CONTESTANTS, NAMES, OURS, Contestant
from bench.jobs import JOBS
from bench.versions import version


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Tolsey against real proxies on the same work, in one run. Only the ratios count.",
        epilog="example: python -m bench --only caddy,envoy-authz,tolsey --rounds 5",
    )
    parser.add_argument("what", nargs="?", choices=list(_WHAT), default="speed")
    parser.add_argument("--quick", action="store_true", help="only check that it runs and that the ledger is right")
    parser.add_argument("--seconds", type=_positive, help="of load in each round (default 4)")
    parser.add_argument("--rounds", type=_positive, help="how often each contestant runs (default 3)")
    parser.add_argument("--only", type=_names, metavar="A,B", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--jobs", type=_jobs, metavar="A,B", help=f"some of: {', '.join(job.name for job in JOBS)}")
    parser.add_argument("--rates", type=_rates, metavar="N,M", help="fixed rates, calls a second (default 500,2000)")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/performance.md")
    parser.add_argument("--tokens", type=_positive, help="memory, fresh: how many tokens (default 100000, 10000)")
    parser.add_argument(
        "--minutes",
        type=_positive,
        help="memory: load for so long, over which --tokens are spread, and see whether memory is flat",
    )
    parser.add_argument("--large", action="store_true", help="ledger: up to 1,000,000 accounts and 10,000,000 entries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw results")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _names(text: str) -> list[str]:
    return _some(text, NAMES)


def _jobs(text: str) -> list[str]:
    return _some(text, [job.name for job in JOBS])


def _rates(text: str) -> list[int]:
    return [_positive(word) for word in text.split(",")]


def _some(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def main() -> int:
    """Exit status: 0 all ran and every ledger was right, 1 not so, 2 wrong usage."""
    signal.signal(signal.SIGTERM, _terminated)
    asked = arguments()
    try:
        return _WHAT[asked.what](asked)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _speed(asked: argparse.Namespace) -> int:
    places = machine.cores()
    jobs = [job for job in JOBS if asked.jobs is None or job.name in asked.jobs]
    chosen = [one for one in CONTESTANTS if _wanted(one, asked) and (one.paced or set(one.jobs) & set(jobs))]
    if asked.quick:
        # All jobs of one are enough to see that they run.
        firsts = {one.name: tuple(job for job in one.jobs if job in jobs)[:1] for one in chosen}
        chosen = [one if one.name == OURS else replace(one, jobs=firsts[one.name]) for one in chosen]
    facts: dict[str, Any] | None = None
    try:
        facts = _facts(places, [one.tool for one in chosen])
    except Missing as error:
        if not asked.quick:
            raise
        print(f"bench: {error}\nbench: so only the ledger is checked, with a tiny client", file=sys.stderr)
    if facts is None:
        return _ledger_alone(places, asked.json)
    rounds, seconds = asked.rounds or (1 if asked.quick else 3), asked.seconds or (1 if asked.quick else 4)
    rates = asked.rates if asked.rates is not None else [200] if asked.quick else [500, 2_000]
    warm_up = 0 if asked.quick else speed.WARM_UP
    runs = speed.measure(chosen, places, rounds=rounds, seconds=seconds, jobs=jobs, rates=rates, warm_up=warm_up)
    report.show(runs, facts, judge=not asked.quick)
    if asked.write:
        page.put("speed", page.markdown(sheets.sheets(runs, judge=True), facts))
        page.PAGE.with_suffix(".svg").write_text(sheets.picture(runs), "utf-8")
    if asked.json:
        report.save(asked.json, report.document(runs, facts))
    return 0


def _ledger_alone(places: machine.Cores, file: Path | None) -> int:
    audit = quick.check(places)
    print(f"the ledger has {audit.calls} calls ({audit.spent} USD), the upstream saw {audit.seen}; fsck passed")
    if file:
        report.save(file, {"audit": asdict(audit)})
    return 0


def _wanted(one: Contestant, asked: argparse.Namespace) -> bool:
    """Those asked for; else all, of which --quick takes those that need no large download and no Lightning node."""
    if asked.only:
        return one.name in asked.only
    return not (
        asked.quick and (one.tool == "aperture" or (one.tool in install.WHEELS and install.find(one.tool) is None))
    )


def _memory(asked: argparse.Namespace) -> int:
    places = machine.cores()
    facts = _facts(places, ["tolsey"])
    if asked.minutes is not None:
        flat = steady.measure(places, asked.minutes, asked.tokens)
        report.show_steady(flat, facts)
        if asked.json:
            report.save(asked.json, {**facts, "steady": {**asdict(flat), "growth": flat.growth, "met": flat.met}})
        return 0 if flat.met or asked.quick else 1
    found = memory.measure(places, asked.tokens or (2_000 if asked.quick else 100_000))
    report.show_memory(found, facts, judge=not asked.quick)
    if asked.json:
        report.save(asked.json, {**facts, "memory": {**asdict(found), "limit_mb": memory.LIMIT_MB, "met": found.met}})
    return 0 if found.met or asked.quick else 1


def _ledger(asked: argparse.Namespace) -> int:
    facts = {
        "command": _command(),
        "machine": machine.describe(machine.cores()),
        "versions": {"sqlite": f"SQLite {sqlite3.sqlite_version}", "postgresql": ledger.version()},
    }
    runs = ledger.measure(
        quick=asked.quick,
        large=asked.large,
        rounds=asked.rounds or (1 if asked.quick else 3),
        seconds=0.5 if asked.quick else asked.seconds or 4,
    )
    screen = report.console()
    report.show_sheets(screen, ledger.sheets(runs, judge=not asked.quick))
    report.show_facts(screen, facts)
    if asked.write:
        page.put("ledger", page.markdown(ledger.sheets(runs, judge=True), facts, pinned=False))
    if asked.json:
        report.save(asked.json, ledger.document(runs, facts))
    return 0


def _flood(asked: argparse.Namespace) -> int:
    places = machine.cores()
    facts = _facts(places, ["tolsey"])
    found = flood.measure(places, 1_000 if asked.quick else 20_000)
    report.show_flood(found, facts)
    if asked.json:
        report.save(asked.json, {**facts, "flood": [asdict(one) for one in found]})
    return 0


def _workers(asked: argparse.Namespace) -> int:
    places = machine.cores()
    facts = _facts(places, ["tolsey"])
    rounds, seconds = asked.rounds or (1 if asked.quick else 3), asked.seconds or (1 if asked.quick else 4)
    found = workers.measure(places, rounds=rounds, seconds=seconds)
    report.show_workers(found, facts, judge=not asked.quick)
    if asked.json:
        report.save(asked.json, {**facts, "workers": [asdict(one) for one in found]})
    return 0


def _fresh(asked: argparse.Namespace) -> int:
    facts = _facts(machine.cores(), ["tolsey"])
    found = fresh.measure(asked.tokens or (200 if asked.quick else 10_000))
    report.show_fresh(found, facts, judge=not asked.quick)
    if asked.json:
        report.save(asked.json, {**facts, "fresh": [asdict(one) for one in found]})
    return 0


def _command() -> str:
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


def _facts(places: machine.Cores, tools: Sequence[str]) -> dict[str, Any]:
    """Install what is missing; then how this run came about, for the report."""
    if "tolsey" in tools:
        gateway.command()
    versions = {tool: version(tool) for tool in dict.fromkeys(["nginx", "wrk", *tools])}
    return {"command": _command(), "machine": machine.describe(places), "versions": versions}


_WHAT = {
    "speed": _speed,
    "memory": _memory,
    "ledger": _ledger,
    "flood": _flood,
    "workers": _workers,
    "fresh": _fresh,
}

if __name__ == "__main__":
    sys.exit(main())
