"""What ``tools/list`` costs every session: characters of compact JSON, everything counted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.clients import http_client, message
from bench.figures import held, milliseconds, sample
from bench.program import data_folder, serving
from bench.runner import Run
from bench.stopwatch import timed
from bench.tables import Table

GOAL = 620
# Quoted, not measured here: characters of the whole list, tools.
OTHERS = (("Supabase's server", 23_479, 32), ("bknd", 43_065, 45), ("the contract's reference", 151_888, 35))


async def measure(run: Run) -> Sequence[Table]:
    """Ask a real server for the list."""
    repeats = run.size(100, 10)
    ask = message(1, "tools/list")
    with data_folder() as home, serving(home) as program:
        async with http_client(program) as client:
            tools = (await client.post(ask))["result"]["tools"]
            run.begin("tools/list", repeats)
            took = []
            for _ in range(repeats):
                took.append(await timed(client.post, ask))
                run.step()
    return [_sizes(tools), _beside_others(tools, sample(took).median)]


def _compact(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def _sizes(tools: list[dict[str, object]]) -> Table:
    rows = []
    for tool in sorted(tools, key=_compact, reverse=True):
        parts = [_compact(tool.get(part, "")) for part in ("description", "inputSchema", "annotations")]
        rows.append([f"`{tool['name']}`", str(_compact(tool)), *map(str, parts)])
    return Table(["tool", "characters", "description", "schema", "annotations"], rows)


def _beside_others(tools: list[dict[str, object]], took: float) -> Table:
    # As in the answer: with what stands around and between the tools.
    total = sum(map(_compact, tools)) + len(tools) - 1 + len('{"tools":[]}')
    each = total / len(tools)
    rows = [["Brolly", str(len(tools)), f"{total:,}", f"{each:.0f}", "1.00 ×"]]
    for name, size, count in OTHERS:
        rows.append([name, str(count), f"{size:,}", f"{size / count:.0f}", f"{size / count / each:.2f} ×"])
    note = f"Goal: at most {GOAL} characters per tool: {held(each <= GOAL)}. Answered in {milliseconds(took)} (median)."
    return Table(["server", "tools", "characters", "per tool", "against Brolly, per tool"], rows, [note])
