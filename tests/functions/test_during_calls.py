"""What happens to calls while something else does: new code, the app's end, other apps."""

from __future__ import annotations

from uuid import uuid4

import anyio
import httpx

from brolly.apps import provision
from tests.functions.conftest import Stage

SLOW = """
export async function handler(request: Request, ctx: any) {
  const { rows } = await ctx.db.query("select pg_sleep($1), 'NAME' as name", [Number(await request.text())]);
  return new Response(rows[0].name);
}
"""


async def until_called(stage: Stage, app_id: str) -> None:
    """Until a call of the app runs."""
    with anyio.fail_after(20):
        while (found := stage.deps.deno._apps.get(app_id)) is None or not found.running:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_a_call_ends_on_the_code_that_it_began_with(stage: Stage) -> None:
    await stage.deploy("slow", SLOW.replace("NAME", "old"))
    answers: list[str] = []

    async def call() -> None:
        answers.append((await stage.call("slow", content=b"4")).text)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until_called(stage, stage.app.id)
        await stage.deploy("slow", SLOW.replace("NAME", "new"))
        answers.append((await stage.call("slow", content=b"0")).text)
    assert sorted(answers) == ["new", "old"]


async def test_a_full_app_holds_up_no_other_and_an_apps_end_ends_its_calls(stage: Stage) -> None:
    assert stage.owner.account_id is not None
    other, _ = await provision.create(stage.deps, stage.owner.account_id, f"other-{uuid4()}", "self-hosted")
    trigger = {"type": "http", "config": {"auth": "none"}}
    await stage.mcp("deploy_function", app_id=other, name="slow", code=SLOW, triggers=[trigger], timeoutMs=20_000)
    answers: list[httpx.Response] = []

    async def call(method: str) -> None:
        url = f"/v1/{other}/fn/slow"
        answers.append(await stage.http.request(method, url, content=b"9", timeout=60))

    async with anyio.create_task_group() as group:
        for number in range(150):
            group.start_soon(call, "POST" if number % 2 else "PUT")
        await until_called(stage, other)
        # More calls than may run or wait for it would be refused; far more than there are connections run.
        assert (await stage.sql("select 1 as one"))["rows"] == [{"one": 1}]
        assert answers == []
        app = await stage.deps.registry.get(stage.owner, other)
        process = stage.deps.deno._apps[other].process
        assert process is not None
        await provision.delete(stage.deps, app)
        assert process.dead.is_set()
        assert other not in stage.deps.deno._apps
    # The function's own error where the database went first, ours where its process did.
    assert {answer.status_code for answer in answers} <= {404, 500, 502, 503}
    assert not any("INTERNAL_ERROR" in answer.text for answer in answers)
    assert len(answers) == 150
    assert (await stage.sql("select 1 as one"))["rows"] == [{"one": 1}]
