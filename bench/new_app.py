"""Creating an app: one after another, beside the bare clone of a database, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.clients import HttpClient, http_client
from bench.database import administrator
from bench.figures import Sample, held, milliseconds, sample, times
from bench.program import data_folder, serving
from bench.runner import Run
from bench.stopwatch import timed
from bench.tables import Table

GOAL = 0.3
AT_ONCE = 8


async def measure(run: Run) -> Sequence[Table]:
    """Over HTTP, as an agent would."""
    repeats, rounds = run.size(30, 6), run.size(5, 1)
    with data_folder() as home, serving(home) as program:
        async with http_client(program, AT_ONCE) as client, administrator(home) as connection:
            run.begin("init_app", repeats + rounds)
            apps, clones = await _one_by_one(run, client, connection, repeats)
            together, each = await _at_once(run, client, rounds)
    ratio = apps.median / clones.median
    rows = [
        _row("`init_app`, one after another", apps, f"≤ {milliseconds(GOAL)}", held(apps.median <= GOAL)),
        _row("`create database … template …` alone, in turn with it", clones),
        _row(f"`init_app`, each of {AT_ONCE} at once", each),
        _row(f"all {AT_ONCE} of them", together),
    ]
    note = (
        f"{repeats} apps in turn, {rounds} × {AT_ONCE} at once. One app costs {times(ratio)} the bare clone: "
        "two logins, grants, the registry's row and the audit row come on top."
    )
    return [Table(["", "least", "p50", "p95", "largest", "goal", "met"], rows, [note])]


def _row(name: str, found: Sample, *goal: str) -> list[str]:
    least, median, largest = found.spread(milliseconds)
    return [name, least, median, milliseconds(found.percentile(0.95)), largest, *(goal or ("", ""))]


async def _one_by_one(run: Run, client: HttpClient, connection: Any, repeats: int) -> tuple[Sample, Sample]:
    template = await connection.fetchval("select datname from pg_database where datname like 'brolly\\_template\\_%'")
    await client.call("init_app", name="warm-up")
    apps, clones = [], []
    for index in range(repeats):
        apps.append(await timed(client.call, "init_app", name=f"app-{index}"))
        clones.append(await timed(connection.execute, f'create database clone_{index} template "{template}"'))
        run.step()
    return sample(apps), sample(clones)


async def _at_once(run: Run, client: HttpClient, rounds: int) -> tuple[Sample, Sample]:
    together: list[float] = []
    each: list[float] = []
    for index in range(rounds):

        async def one(number: int, index: int = index) -> None:
            each.append(await timed(client.call, "init_app", name=f"many-{index}-{number}"))

        async def all_of_them(one: Any = one) -> None:
            await asyncio.gather(*map(one, range(AT_ONCE)))

        together.append(await timed(all_of_them))
        run.step()
    return sample(together), sample(each)
