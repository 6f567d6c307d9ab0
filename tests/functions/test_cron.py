"""Functions by the clock: each time once, with two servers too; what was missed, lost or failed is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from brolly.apps import provision
from brolly.core.worker import start_workers
from brolly.functions import cron
from brolly.functions.cron import Run, run_one, take_due
from brolly.functions.schedule import bring_forward, passed
from brolly.pg.pool import Database
from tests.functions.conftest import Stage

TICK = """
export async function handler(request: Request, ctx: any) {
  const told = await request.json();
  if (ctx.env.FAIL) return new Response("no luck", { status: 503 });
  await ctx.db.query("insert into notes (body, meta) values ('tick', $1)",
    [JSON.stringify({ ...told, type: ctx.trigger.type, missed2: ctx.trigger.missed })]);
  return new Response("ticked");
}
"""
HOURLY = {"schedule": "0 * * * *"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def clock(stage: Stage, name: str, **config: str) -> None:
    await stage.deploy(name, TICK, triggers=[{"type": "cron", "config": {**HOURLY, **config}}])


async def due(stage: Stage, name: str, when: datetime) -> None:
    """As if the function had been due then. Long ago, so that no other test's function is due by ``now``."""
    await stage.deps.control.execute(
        "update brolly.cron_triggers set next_run_at = $3 where app_id = $1 and function_name = $2",
        stage.app.id, name, when,
    )  # fmt: skip


async def shown(stage: Stage, name: str) -> dict[str, Any]:
    return (await stage.mcp("manage_function", action="get", app_id=stage.app.id, function_name=name))["cron"]


@pytest.fixture(scope="module")
async def tick(stage: Stage) -> str:
    await clock(stage, "tick")
    return "tick"


@pytest.fixture
async def fresh(stage: Stage, tick: str) -> str:
    """The function without a history."""
    await stage.deps.control.execute("delete from brolly.cron_runs where app_id = $1", stage.app.id)
    return tick


async def test_a_due_time_runs_the_function_and_is_in_its_history(stage: Stage, fresh: str) -> None:
    await due(stage, fresh, at("2026-03-01 10:00"))
    assert await take_due(stage.deps, at("2026-03-01 09:59:59")) == []
    [run] = await take_due(stage.deps, at("2026-03-01 10:00:01"))
    assert (run.function_name, run.due_at, run.missed) == (fresh, at("2026-03-01 10:00"), 0)
    assert await take_due(stage.deps, at("2026-03-01 10:00:02")) == []
    [waiting] = (await shown(stage, fresh))["runs"]
    assert (waiting["finished_at"], waiting["status"]) == (None, None)
    await run_one(stage.deps, run)
    history = await shown(stage, fresh)
    [told] = history["runs"]
    assert (told["status"], told["error"], told["missed"]) == (200, None, 0)
    assert told["finished_at"] >= told["started_at"]
    assert (history["nextRun"][:16], told["due_at"][:16]) == ("2026-03-01T11:00", "2026-03-01T10:00")
    noted = (await stage.sql("delete from notes where body = 'tick' returning meta", who="owner"))["rows"]
    assert [row["meta"]["type"] for row in noted] == ["cron"]
    assert noted[0]["meta"]["scheduled_at"] == told["due_at"]
    entry = (await stage.logs(fresh))[0]
    assert (entry["trigger"], entry["statusCode"]) == ("cron", 200)


async def test_times_that_passed_are_one_run_that_says_how_many_were_missed(stage: Stage, fresh: str) -> None:
    await due(stage, fresh, at("2026-03-01 10:00"))
    [run] = await take_due(stage.deps, at("2026-03-01 13:30"))
    assert (run.due_at, run.missed) == (at("2026-03-01 13:00"), 3)
    await run_one(stage.deps, run)
    history = await shown(stage, fresh)
    assert (history["runs"][0]["missed"], history["nextRun"][:16]) == (3, "2026-03-01T14:00")
    [note] = (await stage.sql("delete from notes where body = 'tick' returning meta", who="owner"))["rows"]
    assert (note["meta"]["missed"], note["meta"]["missed2"]) == (3, 3)
    # A server that was away for years does not count for ever, and goes on from now.
    last, coming, missed = passed("* * * * *", "UTC", at("2020-01-01"), at("2026-03-01"))
    assert (coming, missed) == (at("2026-03-01 00:01"), 1000)
    assert last < at("2026-03-01")


async def test_two_servers_take_each_time_once(stage: Stage) -> None:
    names = [f"f{n}" for n in range(30)]
    await stage.deps.control.execute(
        "insert into brolly.cron_triggers select $1, name, '0 * * * *', 'UTC', $3 from unnest($2::text[]) name",
        stage.app.id, names, at("2026-02-02 10:00"),
    )  # fmt: skip
    second = Database(stage.deps.databases.server, size=2)
    taken: list[str] = []

    async def take(deps: Any) -> None:
        for _ in range(4):
            taken.extend(run.function_name for run in await take_due(deps, at("2026-02-02 10:00:30")))

    async with anyio.create_task_group() as group:
        for deps in (stage.deps, replace(stage.deps, control=second)):
            group.start_soon(take, deps)
    await second.close()
    assert sorted(taken) == sorted(names)
    await stage.deps.control.execute("delete from brolly.cron_triggers where function_name = any($1)", names)


@pytest.mark.parametrize(
    ("schedule", "start", "times"),
    [
        # 3 o'clock in Berlin is 2 o'clock in winter and 1 o'clock in summer.
        ("0 3 * * *", "2026-03-28 02:00", ["2026-03-29 01:00", "2026-03-30 01:00"]),
        ("0 3 * * *", "2026-10-24 01:00", ["2026-10-25 02:00", "2026-10-26 02:00"]),
        # Half past two does not come on the one night, and comes twice on the other: it runs once in both.
        ("30 2 * * *", "2026-03-28 01:30", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        ("30 2 * * *", "2026-10-24 00:30", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        # Each hour stays each hour.
        ("0 * * * *", "2026-03-29 00:00", ["2026-03-29 01:00", "2026-03-29 02:00"]),
        ("0 * * * *", "2026-10-25 00:00", ["2026-10-25 01:00", "2026-10-25 02:00"]),
    ],
)
def test_times_are_those_of_the_zone_when_the_clocks_change(schedule: str, start: str, times: list[str]) -> None:
    moment, found = at(start), list[datetime]()
    for _ in times:
        _, moment, missed = passed(schedule, "Europe/Berlin", moment, moment)
        assert missed == 0
        found.append(moment)
    assert found == [at(time) for time in times]


async def test_what_does_not_run_well_is_told(stage: Stage, fresh: str) -> None:
    async def ends(run: Run) -> tuple[int | None, str | None]:
        number = await stage.deps.control.fetchval(
            "insert into brolly.cron_runs (app_id, function_name, due_at) values ($1, $2, now()) returning id",
            stage.app.id, fresh,
        )  # fmt: skip
        await run_one(stage.deps, replace(run, id=number))
        told = (await shown(stage, fresh))["runs"][0]
        return told["status"], told["error"]

    run = Run(0, stage.app.id, fresh, at("2026-03-01 10:00"), 0)
    assert await ends(replace(run, function_name="nowhere")) == (
        404,
        "RESOURCE_NOT_FOUND: The app has no function 'nowhere'.",
    )
    assert await ends(replace(run, function_name="sql")) == (None, "The function has no cron trigger any more.")
    assert await ends(replace(run, app_id="app_gone")) == (None, "The app is not there.")
    env = {"action": "update_env", "app_id": stage.app.id, "function_name": fresh}
    await stage.mcp("manage_function", **env, env={"FAIL": "1"})
    assert await ends(run) == (503, "no luck")
    await stage.mcp("manage_function", **env, env={"FAIL": None})
    await stage.mcp("manage_app", action="pause", app_id=stage.app.id, paused=True)
    assert await ends(run) == (None, "The app is paused.")
    await stage.mcp("manage_app", action="pause", app_id=stage.app.id, paused=False)
    assert await ends(run) == (200, None)


async def test_a_run_that_ended_with_its_server_is_marked(stage: Stage, fresh: str) -> None:
    await stage.deps.control.execute(
        "insert into brolly.cron_runs (app_id, function_name, due_at, started_at) select $1, $2, now() - a, now() - a "
        "from unnest(array['31 days', '1 hour', '1 minute']::interval[]) a",
        stage.app.id, fresh,
    )  # fmt: skip
    await cron.tidy(stage.deps)
    runs = (await shown(stage, fresh))["runs"]
    assert [(r["error"], r["finished_at"] is None) for r in runs] == [
        (None, True), ("The server ended during this run.", False)
    ]  # fmt: skip


async def test_a_schedule_keeps_its_time_until_it_changes_or_goes(stage: Stage) -> None:
    await clock(stage, "kept")
    await due(stage, "kept", at("2026-11-01 10:00"))
    before = (await shown(stage, "kept"))["nextRun"]
    assert before[:16] == "2026-11-01T10:00"
    await clock(stage, "kept")
    assert (await shown(stage, "kept"))["nextRun"] == before
    await clock(stage, "kept", timezone="Asia/Kolkata")
    after = datetime.fromisoformat((await shown(stage, "kept"))["nextRun"])
    assert (after > datetime.now(UTC), after.minute) == (True, 30)
    await stage.mcp("manage_function", action="delete", app_id=stage.app.id, function_name="kept", confirm=True)
    count = "select count(*) from brolly.cron_triggers where app_id = $1 and function_name = 'kept'"
    assert await stage.deps.control.fetchval(count, stage.app.id) == 0
    assert not await bring_forward(stage.deps, stage.app.id, "kept")
    assert stage.owner.account_id
    app_id, _ = await provision.create(stage.deps, stage.owner.account_id, "short-lived", "self-hosted")
    await stage.deps.control.execute(
        "insert into brolly.cron_triggers values ($1, 'kept', '0 * * * *', 'UTC', now())", app_id
    )  # fmt: skip
    await provision.delete(stage.deps, await stage.deps.registry.get(stage.owner, app_id))
    assert await stage.deps.control.fetchval(count, app_id) == 0


async def test_the_worker_runs_what_is_due(stage: Stage, fresh: str) -> None:
    assert await bring_forward(stage.deps, stage.app.id, fresh)
    [work] = [w for part in stage.deps.slices for w in part.workers(stage.deps) if w.name == "function cron"]
    async with anyio.create_task_group() as group:
        start_workers(group, [work])
        with anyio.fail_after(20):
            while not [r for r in (await shown(stage, fresh))["runs"] if r["finished_at"]]:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    history = await shown(stage, fresh)
    assert [r["status"] for r in history["runs"]] == [200]
    assert datetime.fromisoformat(history["nextRun"]) > datetime.now(UTC)
