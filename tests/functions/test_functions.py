"""Deploying, calling, looking after functions: by the tools and over HTTP."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from brolly.functions.store import functions_of
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session
from tests.functions.conftest import Stage

GREET = """
export async function handler(request: Request, ctx: any) {
  console.log("greeting", { user: ctx.user?.id ?? null });
  return Response.json({ user: ctx.user, caller: ctx.caller.type, trigger: ctx.trigger.type, app: ctx.app.id,
    env: ctx.env.GREETING ?? null, shared: ctx.env.SHARED ?? null, platform: ctx.env.BUTTERBASE_APP_ID,
    told: request.headers.get("x-user-id"), forged: request.headers.get("x-app-id") });
}
"""
ECHO = """
export async function handler(request: Request) {
  const url = new URL(request.url);
  return new Response(await request.arrayBuffer(), { status: 207, headers: {
    "x-method": request.method, "x-path": url.pathname, "x-query": url.search,
    "content-type": request.headers.get("content-type") ?? "none" } });
}
"""


def call(stage: Stage, action: str, **more: Any) -> Any:
    return stage.mcp("manage_function", action=action, app_id=stage.app.id, **more)


async def test_a_function_is_live_after_its_deployment_and_says_who_called(stage: Stage) -> None:
    made = await stage.deploy("greet", GREET, "optional", description="Greets")
    assert made["id"] == made["function_id"]
    assert (made["name"], made["status"], made["created"]) == ("greet", "active", True)
    assert made["url"].endswith(f"/v1/{stage.app.id}/fn/greet")
    said = (await stage.call("greet", "ann", headers={"X-App-Id": "forged", "X-User-Id": "forged"})).json()
    assert said["user"]["id"] == said["told"] == stage.ids["ann"]
    assert (said["caller"], said["trigger"], said["app"]) == ("end_user_jwt", "http", stage.app.id)
    assert said["platform"] == said["forged"] == stage.app.id
    assert (await stage.call("greet")).json()["caller"] == "anonymous"
    assert (await stage.call("greet", "owner")).json() == {
        **said, "user": None, "told": None, "caller": "service_key"
    }  # fmt: skip
    again = await stage.deploy("greet", GREET.replace("greeting", "hello again"), "optional")
    assert (again["id"], again["created"]) == (made["id"], False)


async def test_bodies_of_any_type_pass_both_ways(stage: Stage) -> None:
    await stage.deploy("echo", ECHO)
    raw = bytes(range(256)) * 100
    answer = await stage.call(
        "echo/a/b", method="PUT", content=raw, headers={"content-type": "image/png"}, params={"q": "1"}
    )
    assert (answer.status_code, answer.content) == (207, raw)
    assert answer.headers["x-method"] == "PUT"
    assert answer.headers["x-path"] == f"/v1/{stage.app.id}/fn/echo/a/b"
    assert (answer.headers["x-query"], answer.headers["content-type"]) == ("?q=1", "image/png")
    assert (await stage.call("echo", method="GET")).headers["x-method"] == "GET"


async def test_events_are_streamed(stage: Stage) -> None:
    code = """export const handler = () => new Response(new ReadableStream({ async start(c) {
      for (const n of [1, 2, 3]) {
        c.enqueue(new TextEncoder().encode(`data: ${n}\\n\\n`)); await new Promise((r) => setTimeout(r, 5)); }
      c.close(); } }), { headers: { "content-type": "text/event-stream" } })"""
    await stage.deploy("events", code)
    answer = await stage.call("events", method="GET")
    assert answer.text == "data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"


async def test_who_may_call_is_the_triggers_word(stage: Stage) -> None:
    await stage.deploy("members", GREET, "required")
    refused = await stage.call("members")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AUTH_REQUIRED")
    assert (await stage.call("members", "ann")).status_code == 200
    assert (await stage.call("members", "owner")).status_code == 200
    missing = await stage.call("nowhere")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    await stage.deploy("posts", GREET, triggers=[{"type": "http", "config": {"auth": "none", "method": "POST"}}])
    assert (await stage.call("posts", method="GET")).status_code == 405
    await stage.deploy("clock", GREET, triggers=[{"type": "cron", "config": {"schedule": "0 3 * * *"}}])
    assert (await stage.call("clock", "owner")).status_code == 404
    stranger, key = await make_owner(stage.deps)
    async with http_client(stage.deps, key) as http:
        assert (await http.post(f"/v1/{stage.app.id}/fn/members")).status_code == 404
    async with mcp_session(stage.deps, stranger) as theirs:
        for tool, more in (
            ("deploy_function", {"name": "greet", "code": GREET}),
            ("invoke_function", {"function_name": "greet"}),
            ("manage_function", {"action": "get_logs", "function_name": "greet"}),
        ):
            with pytest.raises(ToolFailed) as caught:
                await theirs(tool, app_id=stage.app.id, **more)
            assert caught.value.code == "RESOURCE_NOT_FOUND"


async def test_a_key_of_this_app_may_act_as_a_user(stage: Stage) -> None:
    await stage.deploy("greet", GREET, "required")
    user = {"X-Butterbase-As-User": stage.ids["bob"]}
    wide = await stage.call("greet", "owner", headers=user)
    assert (wide.status_code, wide.json()["error"]["code"]) == (403, "AUTH_IMPERSONATION_FORBIDDEN")
    _, key = await make_owner(stage.deps, (f"app:{stage.app.id}",), stage.owner.account_id)
    async with http_client(stage.deps, key) as http:
        address = f"/v1/{stage.app.id}/fn/greet"
        assert (await http.post(address, headers=user)).json()["user"]["id"] == stage.ids["bob"]
        await stage.deploy("greet", GREET, "required", allow_service_key_impersonation=False)
        refused = await http.post(address, headers=user)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_IMPERSONATION_DISABLED")


async def test_invoking_by_the_tool_answers_whatever_the_function_answers(stage: Stage) -> None:
    await stage.deploy("echo", ECHO)
    args = {"app_id": stage.app.id, "function_name": "echo"}
    answer = await stage.mcp("invoke_function", **args, body={"a": [1]}, headers={"x-own": "1"})
    assert (answer["status"], answer["untrusted"]) == (207, True)
    assert answer["body"] == {"a": [1]}
    assert answer["headers"]["x-method"] == "POST"
    assert (await stage.mcp("invoke_function", **args, method="GET"))["headers"]["x-method"] == "GET"
    await stage.deploy("fails", "export const handler = () => { throw new Error('no luck') }")
    failed = await stage.mcp("invoke_function", app_id=stage.app.id, function_name="fails")
    assert failed["status"] == 500
    assert failed["body"]["error"] == "Error: no luck"
    assert "fails.ts:1:" in failed["body"]["stack"]
    over_http = await stage.call("fails")
    assert (over_http.status_code, over_http.json()["error"]) == (500, "Error: no luck")


async def test_functions_call_one_another_four_deep(stage: Stage) -> None:
    code = """export async function handler(request: Request, ctx: any) {
      const n = (await request.json()).n;
      try { const inner = await ctx.invoke("nest", { n: n + 1 }); return Response.json({ n, inner: inner.body }); }
      catch (error) { return Response.json({ n, stopped: error.code }); }
    }"""
    await stage.deploy("nest", code)
    answer = (await stage.call("nest", "ann", json={"n": 1})).json()
    depth = 1
    while "inner" in answer:
        answer, depth = answer["inner"], depth + 1
    assert (depth, answer["stopped"]) == (4, "VALIDATION_INVALID_SCHEMA")


async def test_a_key_is_claimed_once_and_again_when_its_time_is_over(stage: Stage) -> None:
    code = """export const handler = async (request: Request, ctx: any) => {
      const { key, scope } = await request.json();
      const claim = () => ctx.idempotency.claim(key, { scope, ttlSeconds: 60 });
      return Response.json(await Promise.all([claim(), claim(), claim()]));
    }"""
    await stage.deploy("claim", code)
    assert sorted((await stage.call("claim", json={"key": "a"})).json()) == [False, False, True]
    assert (await stage.call("claim", json={"key": "a"})).json() == [False] * 3
    assert True in (await stage.call("claim", json={"key": "a", "scope": "other"})).json()
    async with functions_of(stage.deps, stage.app) as connection:
        await connection.execute("update functions.claims set expires_at = now() - interval '1 second'")
    assert sorted((await stage.call("claim", json={"key": "a"})).json()) == [False, False, True]


async def test_variables_take_effect_at_the_next_call_and_are_never_shown(stage: Stage) -> None:
    await stage.deploy("greet", GREET, "none", envVars={"GREETING": "hi-secret", "OTHER": "x"})
    assert (await stage.call("greet")).json()["env"] == "hi-secret"
    done = await call(stage, "update_env", function_name="greet", env={"GREETING": "changed-secret", "OTHER": None})
    assert done["updatedKeys"] == ["GREETING", "OTHER"]
    assert (await stage.call("greet")).json()["env"] == "changed-secret"
    # A deployment without envVars keeps them.
    await stage.deploy("greet", GREET, "none")
    assert (await stage.call("greet")).json()["env"] == "changed-secret"
    shown = await call(stage, "get", function_name="greet")
    assert shown["envKeys"] == ["GREETING"]
    assert shown["code"] == GREET
    async with http_client(stage.deps, stage.owner_key) as http:
        answer = await http.patch(f"/v1/{stage.app.id}/env", json={"envVars": {"SHARED": "all", "GREETING": "weaker"}})
        assert answer.json()["keys"] == ["GREETING", "SHARED"]
        assert (await http.get(f"/v1/{stage.app.id}/env")).json()["keys"] == ["GREETING", "SHARED"]
    said = (await stage.call("greet")).json()
    assert (said["env"], said["shared"]) == ("changed-secret", "all")
    async with functions_of(stage.deps, stage.app) as connection:
        stored = await connection.fetch(
            "select env from functions.functions union all select env from functions.environment"
        )
    assert not any(row["env"] and b"secret" in row["env"] for row in stored)
    assert "secret" not in json.dumps([shown, done, await call(stage, "list")])


@pytest.mark.parametrize(
    "env",
    [{"BUTTERBASE_APP_ID": "x"}, {"brolly_home": "x"}, {"1A": "x"}, {"A-B": "x"}, {"A": 1}, {"A": "\0"},
     {"A": "x" * 40_000}, {f"N{n}": "x" for n in range(101)}],
)  # fmt: skip
async def test_names_that_are_the_platforms_and_values_that_are_no_text_are_refused(stage: Stage, env: Any) -> None:
    await stage.deploy("greet", GREET, "none", envVars={"GREETING": "kept"})
    with pytest.raises(ToolFailed) as caught:
        await call(stage, "update_env", function_name="greet", env=env)
    assert caught.value.code == "VALIDATION_INVALID_SCHEMA"
    with pytest.raises(ToolFailed):
        await stage.deploy("greet", GREET, "none", envVars=env)
    assert (await stage.call("greet")).json()["env"] == "kept"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("export const handler = () => {\n  return (;\n}", "broken.ts:2:11: Expression expected"),
        ("export const handler = (r: Request) => {\n  const n: number = 'a';\n}", "broken.ts:2:9: Type 'string'"),
        ("export const other = () => 1", "exports no handler"),
        ("import { a } from './beside.ts';\nexport const handler = () => a", "broken.ts:1:"),
        ("nothing here", "expected a module that exports a handler"),
        ("export const handler = 1; throw new Error('top level')", "top level"),
    ],
)
async def test_what_does_not_compile_is_told_with_its_place_and_replaces_nothing(
    stage: Stage, code: str, said: str
) -> None:
    await stage.deploy("broken", GREET, "none")
    with pytest.raises(ToolFailed) as caught:
        await stage.deploy("broken", code, "none")
    assert caught.value.code == "VALIDATION_INVALID_SCHEMA"
    assert said in caught.value.error["message"]
    assert (await stage.call("broken")).status_code == 200
    assert (await call(stage, "get", function_name="broken"))["code"] == GREET


@pytest.mark.parametrize(
    "more",
    [
        {"name": "../up"}, {"name": ""}, {"name": "x" * 101}, {"timeoutMs": 1}, {"timeoutMs": 300_001},
        {"triggers": []}, {"triggers": [{"type": "http", "config": {"x": 1}}]},
        {"triggers": [{"type": "http"}, {"type": "http"}]}, {"triggers": [{"type": "carrier_pigeon"}]},
        {"triggers": [{"type": "http", "config": {"auth": "maybe"}}]},
        {"triggers": [{"type": "cron"}]}, {"triggers": [{"type": "cron", "config": {"schedule": "99 * * * *"}}]},
        {"triggers": [{"type": "cron", "config": {"schedule": "* * * * * *"}}]},
        {"triggers": [{"type": "cron", "config": {"schedule": "0 0 30 2 *"}}]},
        {"triggers": [{"type": "cron", "config": {"schedule": "0 3 * * *", "timezone": "Mars/Olympus"}}]},
        {"triggers": [{"type": "webhook", "config": {"provider": "github"}}]},
        {"trigger": {"type": "http"}, "triggers": [{"type": "http"}]},
    ],
)  # fmt: skip
async def test_wrong_deployments_are_refused(stage: Stage, more: dict[str, Any]) -> None:
    with pytest.raises(ToolFailed) as caught:
        await stage.mcp("deploy_function", **{"app_id": stage.app.id, "name": "wrong", "code": GREET, **more})
    assert caught.value.code in ("VALIDATION_INVALID_SCHEMA", "VALIDATION_MISSING_FIELD")


async def test_each_call_is_in_the_log_with_what_it_printed(stage: Stage) -> None:
    code = """export async function handler(request: Request, ctx: any) {
      console.info("one", 2, { three: [4] }); console.error(new Error("seen"));
      const { fail, late } = await request.json();
      if (late) ctx.waitUntil((async () => { await new Promise((r) => setTimeout(r, 100)); console.warn("after"); })());
      if (fail) throw new TypeError("logged"); return new Response("ok"); }"""
    await stage.deploy("noisy", code)
    await stage.call("noisy", "ann", json={"late": True})
    await stage.call("noisy", json={"fail": True})
    failed, fine = await stage.logs("noisy")
    assert (failed["statusCode"], failed["error"], failed["caller"]) == (500, "TypeError: logged", "anonymous")
    assert "noisy.ts:5:" in failed["stack"]
    assert (fine["statusCode"], fine["caller"], fine["trigger"], fine["method"]) == (
        200,
        "end_user_jwt",
        "http",
        "POST",
    )
    assert fine["consoleLogs"][0]["message"] == "one 2 { three: [ 4 ] }"
    assert fine["consoleLogs"][0]["level"] == "info"
    assert "noisy.ts:2:" in fine["consoleLogs"][1]["message"]
    with anyio.fail_after(10):
        while len((await stage.logs("noisy"))[1]["consoleLogs"]) < 3:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    assert [r["statusCode"] for r in await stage.logs("noisy", level="error")] == [500]
    page = await call(stage, "get_logs", function_name="noisy", limit=1)
    assert (len(page["logs"]), page["hasMore"], page["untrusted"]) == (1, True, True)
    assert await stage.logs("noisy", since="2999-01-01T00:00:00Z") == []
    listed = next(f for f in (await call(stage, "list"))["functions"] if f["name"] == "noisy")
    assert (listed["invocationCount"], listed["errorRate"], listed["status"], listed["lastStatus"]) == (
        2,
        0.5,
        "error",
        500,
    )


async def test_a_call_that_never_ends_leaves_the_first_of_what_it_printed(stage: Stage) -> None:
    code = """export async function handler(r: Request) {
      const all = await r.text();
      console.log("before", "x".repeat(20_000));
      if (all) for (let i = 0; ; i++) { console.log(i); if (i % 50 === 0) await new Promise((r) => setTimeout(r, 1)); }
      await new Promise(() => {}); }"""
    await stage.deploy("flood", code, timeoutMs=1000)
    assert [(await stage.call("flood", content=body)).status_code for body in ("", "all")] == [504, 504]
    flood, hang = await stage.logs("flood")
    assert [len(entry["consoleLogs"]) for entry in (flood, hang)] == [100, 1]
    assert hang["consoleLogs"][0]["message"].startswith("before xxx")
    assert len(hang["consoleLogs"][0]["message"]) == 10_000
    assert (flood["statusCode"], flood["consoleLogs"][99]["message"]) == (504, "98")


async def test_a_deleted_function_is_gone_and_its_log_stays(stage: Stage) -> None:
    await stage.deploy("gone", GREET, "none")
    await stage.call("gone")
    with pytest.raises(ToolFailed) as caught:
        await call(stage, "delete", function_name="gone")
    assert caught.value.code == "CONFIRMATION_REQUIRED"
    assert (await stage.call("gone")).status_code == 200
    await call(stage, "delete", function_name="gone", confirm=True)
    assert (await stage.call("gone")).status_code == 404
    with pytest.raises(ToolFailed):
        await call(stage, "get_logs", function_name="gone")
    assert len(await stage.logs("gone", include_deleted=True)) == 2
    await stage.deploy("gone", GREET, "none")
    assert await stage.logs("gone") == []


async def test_logins_of_functions_reach_their_own_app_alone_and_go_with_it(stage: Stage) -> None:
    logins = await stage.deps.control.fetch(
        "select rolname, rolsuper, rolbypassrls, rolinherit, rolcreaterole, rolcreatedb from pg_roles "
        "where rolname like $1", f"{stage.app.id}_fn_%",
    )  # fmt: skip
    assert len(logins) == 3
    assert not any(value for row in logins for name, value in row.items() if name != "rolname")
    for login in (row["rolname"] for row in logins):
        open_to = await stage.deps.control.fetch(
            "select datname from pg_database where has_database_privilege($1, datname, 'connect') "
            "and datname not like 'template%' and datallowconn", login,
        )  # fmt: skip
        assert [row["datname"] for row in open_to] == [stage.app.db_name]


async def test_over_http_the_owner_manages_as_the_published_clients_do(stage: Stage) -> None:
    async with http_client(stage.deps, stage.owner_key) as http:
        base = f"/v1/{stage.app.id}/functions"
        made = await http.post(base, json={"name": "web", "code": GREET, "trigger": {"type": "http"}})
        assert (made.status_code, made.json()["triggers"]) == (200, [{"type": "http", "enabled": True}])
        assert "web" in [f["name"] for f in (await http.get(base)).json()["functions"]]
        assert (await http.patch(f"{base}/web/env", json={"envVars": {"A": "1"}})).json()["updatedKeys"] == ["A"]
        assert (await http.get(f"{base}/web")).json()["envKeys"] == ["A"]
        assert (await http.post(f"{base}/web/invoke", json={"x": 1})).json()["caller"] == "service_key"
        settings = await http.patch(f"{base}/web/settings", json={"allow_service_key_impersonation": False})
        assert settings.json()["allow_service_key_impersonation"] is False
        assert len((await http.get(f"{base}/web/logs?limit=5")).json()["logs"]) == 1
        assert (await http.delete(f"{base}/web")).json() == {"success": True}
        assert (await http.delete(f"{base}/web")).json() == {"success": True}
        assert (await http.get(f"{base}/web")).status_code == 404
    refused = await stage.http.get(f"/v1/{stage.app.id}/functions")
    assert refused.status_code in (401, 404)


async def test_the_document_of_the_app_tells_of_http_functions_to_whom_they_are_open(stage: Stage) -> None:
    code = "export function handler() { return new Response('x'); }"
    for name, trigger in (
        ("told_open", {"type": "http", "config": {"auth": "none", "method": "GET"}}),
        ("told_closed", {"type": "http"}),
        ("told_cron", {"type": "cron", "config": {"schedule": "0 3 1 1 *"}}),
    ):
        await stage.mcp("deploy_function", app_id=stage.app.id, name=name, code=code, trigger=trigger)

    async def told(**headers: str) -> dict[str, set[str]]:
        answer = await stage.http.get(f"/v1/{stage.app.id}/openapi.json", headers=headers)
        paths = answer.json()["paths"]
        return {p.rsplit("/", 1)[1]: set(o) for p, o in paths.items() if "/fn/told" in p}

    assert await told() == {"told_open": {"get"}}
    every = {"told_open": {"get"}, "told_closed": {"get", "post", "put", "patch", "delete"}}
    assert await told(Authorization=f"Bearer {stage.owner_key}") == every
    await stage.mcp("manage_function", action="delete", app_id=stage.app.id, function_name="told_open", confirm=True)
    assert await told() == {}
