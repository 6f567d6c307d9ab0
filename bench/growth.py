"""Memory over many calls: mixed, failing ones among them, several at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import anyio
import psutil

from bench.clients import HttpClient, http_client, message, tool_message
from bench.database import TABLE, Shelf, fill_shelf
from bench.figures import fit_line, held, mebibytes
from bench.footprint import memory_of
from bench.program import data_folder, serving
from bench.read_call import notes
from bench.runner import Run
from bench.tables import Table

AT_ONCE = 8
POINTS = 50
LIMIT_SECONDS = 260
ENOUGH = 20_000
GOAL = 100  # bytes per call that cannot be told from none: 5 MB over the whole run
PEER = "A peer's server grew by 42 KB per call."


async def measure(run: Run) -> Sequence[Table]:
    """The slope counts in the second half: caches, pools and the heap fill up first."""
    calls = run.size(50_000, 1_500)
    with data_folder() as home, serving(home) as program:
        async with http_client(program, AT_ONCE) as client:
            shelf = await fill_shelf(client, home)
            server = psutil.Process(program.process.pid)
            run.begin("calls", calls)
            spent = sum(server.cpu_times()[:2])
            points, took, failed = await _drive(run, client, shelf, server, calls)
            spent = sum(server.cpu_times()[:2]) - spent
    return [_table(points, took, spent, failed, calls)]


async def _drive(
    run: Run, client: HttpClient, shelf: Shelf, server: psutil.Process, calls: int
) -> tuple[list[tuple[int, int]], float, int]:
    mix = _mix(shelf)
    began = time.monotonic()
    points = [(0, memory_of(server)[0])]
    failed = 0
    block = max(AT_ONCE, calls // POINTS)
    while points[-1][0] < calls and time.monotonic() - began < LIMIT_SECONDS:
        start = points[-1][0]
        numbers = iter(range(start, start + block))

        async def work(numbers: Any = numbers) -> None:
            nonlocal failed
            for number in numbers:
                answer = await client.post(mix(number))
                failed += "error" in answer or bool(answer["result"].get("isError"))

        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(work)
        points.append((start + block, memory_of(server)[0]))
        run.step(block)
    return points, time.monotonic() - began, failed


def _mix(shelf: Shelf) -> Any:
    """Twenty kinds in turn: mostly reads, some writes, three in twenty refused."""
    app = {"app_id": shelf.app_id}
    anon = {**app, "table": TABLE, "as_role": "anon"}
    page = {**app, "table": TABLE, "as_role": "user", "as_user": "user-7", "order": "created_at.desc"}
    ids = notes()

    def insert(number: int) -> bytes:
        row = {"id": 1_000_000 + number, "user_id": "user-7", "title": f"Call {number}"}
        return tool_message(number, "insert_row", {**app, "table": TABLE, "data": row})

    def other(number: int) -> bytes:
        kinds = (
            message(number, "tools/list"),
            tool_message(number, "select_rows", anon),
            tool_message(number, "select_rows", page),
            tool_message(number, "manage_schema", {**app, "action": "get"}),
            tool_message(number, "manage_rls", {**app, "action": "list"}),
            tool_message(number, "manage_app", {"action": "list"}),
            tool_message(number, "query_audit_logs", {**app, "limit": 5}),
            tool_message(number, "select_rows", {**app, "table": f"missing_{number}"}),
            tool_message(number, f"no_tool_{number}", {}),
            tool_message(number, "manage_schema", {"action": "appply", "app_id": f"app_{number:012d}"}),
        )
        return kinds[number // 2 % len(kinds)]

    def one(number: int) -> bytes:
        if number % 10 == 0:
            return insert(number)
        if number % 2 == 0:
            return other(number)
        return tool_message(number, "select_rows", shelf.reading(next(ids)))

    return one


def _table(points: list[tuple[int, int]], took: float, spent: float, failed: int, wanted: int) -> Table:
    done = points[-1][0]
    line = fit_line([(float(x), float(y)) for x, y in points if x >= done / 2])
    tenth = max(1, len(points) // 10)
    shown = [points[0], *points[tenth::tenth]]
    rows = [[f"{count:,}", mebibytes(size), f"{(size - points[0][1]) / 1024:+,.0f} KiB"] for count, size in shown]
    notes = [
        f"{done:,} calls in {took:.0f} s ({done / took:.0f} per second, {AT_ONCE} at once; "
        f"{spent / done * 1000:.2f} ms of processor time per call in the server), {failed:,} of them refused.",
        f"Slope over the second half: **{line.slope:.0f} ± {2 * line.error:.0f} bytes per call**; "
        f"goal: at most {GOAL}: {held(line.slope - 2 * line.error <= GOAL)}. {PEER}",
    ]
    if wanted < ENOUGH:
        notes.append(f"Below {ENOUGH:,} calls the heap still fills, so this slope says little.")
    if done < wanted:
        notes.append(f"Stopped after {LIMIT_SECONDS} s; {wanted:,} calls were wanted.")
    return Table(["calls", "server RSS", "since the start"], rows, notes)
