"""How long starting and stopping take, each repetition doing all of it in the same order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.clients import initialize_message
from bench.figures import held, sample, seconds
from bench.program import background_server, command, data_folder, end, environment, serving
from bench.runner import Run
from bench.tables import Table

FIRST, WARM, BRIDGE, ALONE, STOP = (
    "first start, empty data folder, to `/health/ready`",
    "later start, to `/health/ready`",
    "`brolly mcp` to `initialize` answered, server running",
    "`brolly mcp` to `initialize` answered, starting the server",
    "SIGTERM to exit, Postgres stopped too",
)
IMPORTS, PYTHON = "for comparison: Python importing the server's modules", "for comparison: Python doing nothing"
GOALS = {FIRST: 4.0, WARM: 1.5}


async def measure(run: Run) -> Sequence[Table]:
    """A fresh folder per repetition."""
    repeats = run.size(7, 2)
    took: dict[str, list[float]] = defaultdict(list)
    run.begin("starting and stopping", repeats)
    for _ in range(repeats):
        with data_folder() as home:
            _once(home, took)
        run.step()
    rows = []
    for name in (FIRST, WARM, BRIDGE, ALONE, STOP, IMPORTS, PYTHON):
        found = sample(took[name])
        goal = GOALS.get(name)
        cells = [f"≤ {goal:g} s", held(found.median <= goal)] if goal else ["", ""]
        rows.append([name, *found.spread(seconds), *cells])
    share = sample(took[IMPORTS]).median / sample(took[WARM]).median
    note = f"{repeats} repetitions, compiled modules and disk cache warm. Imports are {share:.0%} of a later start."
    return [Table(["", "least", "median", "largest", "goal", "met"], rows, [note])]


def _once(home: Path, took: dict[str, list[float]]) -> None:
    with serving(home) as program:
        took[FIRST].append(program.ready_seconds)
        took[STOP].append(program.stop())
    took[PYTHON].append(_python("pass"))
    took[IMPORTS].append(_python("import brolly.serve, brolly.commands.server"))
    with serving(home) as program:
        took[WARM].append(program.ready_seconds)
        took[BRIDGE].append(_first_answer(home))
        took[STOP].append(program.stop())
    took[ALONE].append(_first_answer(home))
    server = background_server(home)
    if server is not None:
        server.terminate()
        server.wait(20)


def _python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment())
    return time.perf_counter() - began


def _first_answer(home: Path) -> float:
    began = time.perf_counter()
    process = subprocess.Popen(
        command("mcp", "--home", str(home)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(initialize_message() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        took = time.perf_counter() - began
        if b'"result"' not in answer:
            raise RuntimeError(f"initialize was answered with {answer[:500]!r}")
        process.stdin.close()
        process.wait(5)
        return took
    finally:
        end(process)
