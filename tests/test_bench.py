"""What the bench makes of its runs: a bench that adds up wrongly is worse than none."""

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from bench import BenchError, fresh, page, plot, sheets, speed, steady, workers
from bench.contestants import OURS, Contestant
from bench.figures import Spread, Target, added, late, ratio, spread, stretch
from bench.ground import Audit, Ground, Server
from bench.jobs import CHAT, SEARCH, Job
from bench.load import Load
from bench.machine import Cores
from bench.pace import PATIENCE, Paced, Pacer
from bench.sheets import Sheet
from bench.speed import Did, Run
from bench.workers import Worked

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def run(round_: int, contestant: str, calls: int, *, cpu: float = 1.0, p50: float = 1.0) -> Run:
    """A run of one second of load."""
    load = Load(calls, 1.0, p50, 2 * p50, 0)
    did = [] if contestant == "direct" else [Did("get", load, calls / cpu, 10.0)]
    return Run(round_, contestant, 100.0, 50.0, did, [Paced(500, 500, 0, p50, 2 * p50, 3 * p50)])


RUNS = [
    run(1, "direct", 0, p50=0.2),
    run(1, "caddy", 1000, p50=0.7),
    run(1, "tolsey", 500, cpu=0.5, p50=1.0),
    run(2, "direct", 0, p50=0.6),
    run(2, "caddy", 100, p50=1.1),
    run(2, "tolsey", 300, p50=1.2),
    run(3, "direct", 0, p50=0.2),
    run(3, "caddy", 1000, p50=0.5),
    run(3, "tolsey", 800, p50=0.6),
]


def test_ratios_are_taken_within_a_round() -> None:
    assert ratio(RUNS, "tolsey", "caddy") == Spread(0.5, 0.8, 3.0)
    assert ratio(RUNS, "tolsey", "nginx") is None
    assert ratio(RUNS, "tolsey", "caddy", "sse") is None


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Cores:
    """Two cores, without the upstream and what keeps processes to them."""
    monkeypatch.setattr(speed, "pinned", lambda _: nullcontext())
    monkeypatch.setattr(speed, "by_process", lambda: nullcontext(True))
    monkeypatch.setattr(speed, "origin", lambda _: nullcontext())
    return Cores(0, 1, 2)


def contestant(tool: str, *comes_up: bool) -> Contestant:
    """One that has nothing to do, and comes up, or does not, in one round after the other."""
    turns = iter(comes_up)

    def start(_: Ground) -> AbstractContextManager[Server]:
        if not next(turns):
            raise TimeoutError("it follows no chain")
        return nullcontext(Server(1, None))

    return Contestant(tool, tool, tool, start, ())


def test_a_peer_that_does_not_come_up_is_left_out(places: Cores, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [contestant("peer", True, True), contestant("late", True, False), contestant(OURS, True, True)]
    runs = speed.measure(chosen, places, rounds=2, seconds=1)
    assert [(each.round, each.contestant) for each in runs] == [(1, "peer"), (1, OURS), (2, "peer"), (2, OURS)]
    assert "late, round 2: it did not come up: it follows no chain: left out" in capsys.readouterr().err


def test_nothing_is_measured_where_ours_does_not_come_up(places: Cores) -> None:
    with pytest.raises(BenchError, match="tolsey, round 1: it did not come up"):
        speed.measure([contestant(OURS, False)], places, rounds=2, seconds=1)


def test_what_is_added_is_taken_within_a_round() -> None:
    found = added(RUNS, "tolsey", 500)
    assert found is not None
    assert (found.low, found.mid, found.high) == pytest.approx((0.4, 0.6, 0.8))
    assert added(RUNS, "tolsey", 1000) is None
    bare = late(RUNS, "direct", 500, "p50_ms")
    assert bare == spread([0.2, 0.6, 0.2])


def test_the_tail_is_held_against_the_median_of_its_own_round() -> None:
    found = stretch(RUNS, "tolsey", 500)
    assert found == Spread(2.0, 2.0, 2.0)
    assert stretch(RUNS, "tolsey", 1000) is None


@pytest.mark.parametrize(
    ("found", "met"), [(Spread(0.1, 0.99, 5.0), False), (Spread(0.1, 1.0, 5.0), True), (Spread(0.1, 1.01, 5), True)]
)
def test_a_target_is_held_against_the_median(found: Spread, met: bool) -> None:
    assert Target("", lambda _: None, least=1.0).met(found) is met


def test_the_tables_hold_every_contestant_that_ran() -> None:
    made = {sheet.title: sheet for sheet in sheets.sheets(RUNS, judge=True)}
    full = made["GET, small JSON, 64 connections, as fast as it goes"]
    assert [row[0] for row in full.rows] == ["Caddy", "Tolsey"]
    assert full.rows[1][1:3] == ("500 (300 to 800)", "800")
    wanted = {row[0]: row[1:] for row in made["Wanted"].rows}
    assert wanted["at least 1.0 times Caddy"] == ("0.80 (0.50 to 3.00)", "**not met**")
    assert "at least 1.0 times Envoy" not in wanted
    for sheet in made.values():
        assert {len(row) for row in sheet.rows} == {len(sheet.headings)}


def test_the_picture_is_svg_with_a_bar_for_each_figure() -> None:
    drawn = ET.fromstring(plot.bars("a < b", ["get"], [("one", [Spread(1, 2, 3)]), ("none", [None])]))
    named = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "one", "none", "2.00"} <= set(named)
    assert ET.fromstring(sheets.picture(RUNS)).tag.endswith("svg")


def test_a_section_of_the_page_is_replaced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "performance.md"
    file.write_text("before\n<!-- bench speed -->\nold | \\1\n<!-- end speed -->\nafter\n")
    monkeypatch.setattr(page, "PAGE", file)
    page.put("speed", "new \\1")
    assert file.read_text() == "before\n<!-- bench speed -->\nnew \\1\n<!-- end speed -->\nafter\n"
    with pytest.raises(BenchError, match="no place for memory"):
        page.put("memory", "x")


def test_a_sheet_becomes_a_table() -> None:
    machine = {
        "cores": 2,
        "architecture": "x86_64",
        "server_core": 0,
        "load_core": 1,
        "fsync_ms": 0.1,
        "load_average_before": 3.0,
    }
    facts = {"command": "python -m bench", "machine": machine, "versions": {"nginx": "nginx 1"}}
    text = page.markdown([Sheet("T", ("a", "b"), [("x", "1")])], facts)
    assert text.endswith("**T**\n\n| a | b |\n| --- | ---: |\n| x | 1 |")
    assert "busy with other work" in text


def test_an_llm_call_costs_what_the_others_cost() -> None:
    # The audit multiplies calls by one price.
    assert (100 * 60 + 50 * 80) / 10**6 == 0.01
    assert '"prompt_tokens":100,"completion_tokens":50' in CHAT.answer


@pytest.mark.parametrize(
    ("samples", "found"),
    [([9.0, 2.0, 1.0, 1.0, 3.0], 1.5), ([1.0, 1.0, 4.0, 4.0, 9.0, 9.0, 9.0, 9.0, 5.0, 5.0], 1.25)],
)
def test_memory_grows_from_the_second_fifth_to_the_last(samples: list[float], found: float) -> None:
    assert steady.growth(samples) == found


def test_two_workers_are_not_charged_for_the_time_that_load_and_upstream_took() -> None:
    audit = Audit(1, "0.01", "0", 1)
    one = Worked(1, 1, 1000, 1.0, 0.0, audit)
    # Half a core of two went elsewhere: 1,200 calls on one and a half are 1,600 on two.
    two = Worked(1, 2, 1200, 1.0, 0.5, audit)
    assert (one.rate, two.rate) == (1000, 1600)
    assert workers.ratio([one, two]) == Spread(1.6, 1.6, 1.6)


def test_a_fresh_sub_token_costs_less_under_a_parent_that_is_known() -> None:
    found = fresh.measure(100)
    assert [(one.depth, one.tokens) for one in found] == [(1, 100), (4, 100), (16, 100)]
    assert found[-1].known_us < found[-1].unknown_us
    assert fresh.ratio(found) == found[-1].known_us / found[0].known_us


@asynccontextmanager
async def answering(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[int]:
    """A server that does so with every request."""

    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            await writer.wait_closed()


async def test_a_stall_is_charged_to_every_call_that_it_kept_waiting() -> None:
    stalled: list[asyncio.StreamWriter] = []
    seen = 0

    def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        stalled.append(writer)
        if seen == 60:
            # Half a second of calls was kept waiting: the load did not wait for them.
            for one in stalled:
                one.write(ANSWER)
        elif seen > 60:
            writer.write(ANSWER)

    async with answering(answer) as port:
        found = await Pacer(port, SEARCH).run(100, 1)
    assert (found.calls, found.failed) == (100, 0)
    # The calls of the first 0.6 s waited 0.3 s on average.
    assert found.p50_ms > 50
    assert found.p99_ms > 500


async def test_a_refused_call_and_one_without_an_answer_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.pace.PATIENCE", 0.2)
    seen = 0

    def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen <= 3:
            writer.write(ANSWER.replace(b"200 OK", b"402 Payment Required"))
        elif seen > 5:
            writer.write(ANSWER)

    async with answering(answer) as port:
        found = await Pacer(port, Job("x", "x", "GET", "/", "")).run(20, 1)
    assert (found.calls, found.failed) == (20, 5)
    assert found.p999_ms == 200.0
    assert PATIENCE == 10.0
