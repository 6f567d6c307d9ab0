"""A function greets who is signed in and writes a row in their name; its log, its variables, and its clock."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from brolly.app import open_deps
from brolly.core.settings import load_settings
from brolly.daemon import find_server
from brolly.demo.people import Person, ask, sign_in
from brolly.demo.stage import Demo, DemoFailed
from brolly.functions.schedule import bring_forward

_SECONDS = 30.0
NAME = "greet"
CODE = """\
export async function handler(request: Request, ctx: any) {
  if (ctx.trigger.type === "cron") {
    const { rows } = await ctx.db.query("select count(*)::int as posts from posts");
    console.log(`there are ${rows[0].posts} posts`);
    return Response.json(rows[0]);
  }
  const { rows: people } = await ctx.db.query("select name from users");
  const name = ctx.user ? people[0].name : "stranger";
  console.log(`greeting ${name}, who sees ${people.length} of the users`);
  const title = `${name} was here`;
  const { rows } = await ctx.db.query("insert into posts (title) values ($1) returning author_id", [title]);
  return Response.json({ greeting: `${ctx.env.GREETING ?? "Hello"}, ${name}!`, author: rows[0].author_id });
}
"""
HTTP = {"type": "http", "config": {"auth": "optional"}}
SCHEDULE = "0 3 * * *"
NIGHTLY = {"type": "cron", "config": {"schedule": SCHEDULE, "timezone": "Europe/Berlin"}}


async def play(demo: Demo) -> None:
    """The whole scene."""
    await _deploy(demo)
    async with httpx.AsyncClient(base_url=demo.server, timeout=_SECONDS, trust_env=False) as http:
        carol, dan = [await sign_in(demo, http, name) for name in ("Carol", "Dan")]
        await _call(demo, http, carol, dan)
        await _look_up(demo)
        await _change(demo, http, carol)
    await _run_by_the_clock(demo)


async def _deploy(demo: Demo) -> None:
    demo.step("Deploy a function that greets who is signed in", f"deploy_function name={NAME}")
    demo.screen.print(Syntax(CODE, "typescript", background_color="default", word_wrap=True))
    made = await demo.call("deploy_function", name=NAME, code=CODE, triggers=[HTTP])
    demo.expect(made["status"] == "active", f"live at {made['url']}")
    refused, body = await demo.attempt("deploy_function", name=NAME, code=CODE.replace("[title]", "[titel]"))
    demo.expect(refused and "greet.ts:11:" in body["error"]["message"], "a mistyped name is told with its place:")
    demo.screen.print(f"    {body['error']['message']}", style="dim", markup=False)


async def _call(demo: Demo, http: httpx.AsyncClient, *people: Person) -> None:
    path = f"/v1/{demo.app_id}/fn/{NAME}"
    demo.step("Two people call it, and somebody who is not signed in", f"POST {path}")
    for person in people:
        said = await ask(http, "POST", path, headers=person.headers)
        demo.expect(
            said == {"greeting": f"Hello, {person.name}!", "author": person.user_id},
            f"{said['greeting']} The row that it wrote is {person.name}'s",
        )
    refused = await http.post(path)
    code = refused.json().get("code")
    demo.expect(code == "AUTH_RLS_POLICY_VIOLATION", f"a stranger: {code}, as the function may no more than its caller")


async def _look_up(demo: Demo) -> None:
    demo.step("What it did", f"manage_function action=get_logs function_name={NAME}")
    log = (await demo.call("manage_function", action="get_logs", function_name=NAME))["logs"]
    table = Table("status", "caller", "ms", "printed", box=None, padding=(0, 1))
    for row in reversed(log):
        status = f"[{'green' if row['statusCode'] < 400 else 'red'}]{row['statusCode']}[/]"
        printed = " ".join(line["message"] for line in row["consoleLogs"])
        table.add_row(status, row["caller"], str(row["duration"]), escape(printed))
    demo.screen.print(table)
    demo.expect([row["statusCode"] for row in log] == [500, 200, 200], "each call, with what it printed")


async def _change(demo: Demo, http: httpx.AsyncClient, person: Person) -> None:
    env = {"GREETING": "Good evening"}
    demo.step("Give it a variable", f"manage_function action=update_env env={json.dumps(env)}")
    await demo.call("manage_function", action="update_env", function_name=NAME, env=env)
    said = await ask(http, "POST", f"/v1/{demo.app_id}/fn/{NAME}", headers=person.headers)
    demo.expect(said["greeting"] == f"Good evening, {person.name}!", f"the next call says: {said['greeting']}")


async def _run_by_the_clock(demo: Demo) -> None:
    demo.step("Run it by the clock as well", f"deploy_function triggers: http, cron {SCHEDULE}")
    await demo.call("deploy_function", name=NAME, code=CODE, triggers=[HTTP, NIGHTLY])
    clock = await _clock(demo)
    demo.expect(clock["nextRun"] is not None, f"it runs next at {clock['nextRun']}, which is 3 o'clock in Berlin")
    if not await _make_due(demo):
        return
    run = await _first_run(demo)
    demo.expect(run["status"] == 200, f"made due now, it ran at {run['started_at']}: status {run['status']}")
    log = (await demo.call("manage_function", action="get_logs", function_name=NAME, limit=1))["logs"]
    demo.expect(log[0]["trigger"] == "cron", f"as the service it sees all: {log[0]['consoleLogs'][0]['message']}")


async def _clock(demo: Demo) -> Any:
    return (await demo.call("manage_function", action="get", function_name=NAME))["cron"]


async def _make_due(demo: Demo) -> bool:
    """In the control database itself, as 3 o'clock is far away. Where that is elsewhere, the clock is left alone."""
    running = find_server(demo.home)
    if running is None or running.postgres != "embedded":
        return False
    async with open_deps(load_settings({}, home=demo.home)) as deps:
        return await bring_forward(deps, demo.app_id, NAME)


async def _first_run(demo: Demo) -> Any:
    with anyio.move_on_after(_SECONDS):
        while True:
            done = [run for run in (await _clock(demo))["runs"] if run["finished_at"]]
            if done:
                return done[0]
            await anyio.sleep(0.2)
    raise DemoFailed(f"expected: a run of {NAME} by the clock")
