"""Functions that nobody calls: after a sign-in, after an upload; and links to files from a function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest

from brolly.auth.access import users_of
from brolly.functions import outbox
from tests.api.test_auth_mail import newest
from tests.api.test_auth_mfa import codes_of
from tests.conftest import ToolFailed, http_client
from tests.functions.conftest import PASSWORD, Stage

KEEP = """
export async function handler(request: Request, ctx: any) {
  const told = await request.json();
  await ctx.db.query("insert into notes (body, meta) values ('event', $1)",
    [JSON.stringify({ ...told, trigger: ctx.trigger.type, header: request.headers.get("x-trigger-type") })]);
  return new Response("kept");
}
"""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


async def told(stage: Stage, count: int) -> list[Any]:
    """What the function noted so far, once there are that many notes; they are taken away."""
    with anyio.fail_after(20):
        while True:
            found = await stage.sql("select meta from notes where body = 'event' order by at", who="owner")
            if len(found["rows"]) >= count:
                await stage.sql("delete from notes where body = 'event'", who="owner")
                return [row["meta"] for row in found["rows"]]
            await anyio.sleep(0.02)


async def hook(stage: Stage, name: str | None) -> None:
    await stage.mcp(
        "manage_auth_config", action="configure_auth_hook", app_id=stage.app.id, post_auth_function=name
    )  # fmt: skip


async def post(stage: Stage, path: str, token: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await stage.http.post(f"/auth/{stage.app.id}/{path}", json=body, headers=headers)


async def test_the_hook_is_told_of_each_way_in(stage: Stage) -> None:
    await stage.deploy("keep", KEEP, "required")
    await hook(stage, "keep")
    person = {"email": "cleo@example.com", "password": PASSWORD}
    made = (await post(stage, "signup", **person, display_name="Cleo")).json()["user"]
    user = {"id": made["id"], "email": "cleo@example.com", "provider": "email", "display_name": "Cleo"}
    common = {"user": {**user, "avatar_url": None}, "provider": "email", "trigger": "auth_hook", "header": "auth_hook"}
    assert await told(stage, 1) == [{"event": "signup", "isNewUser": True, **common}]
    session = (await post(stage, "login", **person)).json()
    code, _ = await newest(stage.deps, stage.app, "verify_email")
    await post(stage, "verify-email", session["access_token"], email="cleo@example.com", code=code)
    assert await told(stage, 1) == [{"event": "login", "isNewUser": False, **common}]
    await post(stage, "magic-link", email="dora@example.com")
    for new in (True, False):
        code, _ = await newest(stage.deps, stage.app, "magic_link")
        assert (await post(stage, "magic-link/verify", email="dora@example.com", code=code)).status_code == 200
        [event] = await told(stage, 1)
        assert (event["event"], event["isNewUser"], event["user"]["email"]) == (
            "magic_link_login", new, "dora@example.com"
        )  # fmt: skip
        await post(stage, "magic-link", email="dora@example.com")
    # With a second factor the sign-in ends with that one; who fails is not told of.
    factor = (await post(stage, "mfa/enroll", session["access_token"])).json()
    first, second, _ = codes_of(factor["secret"])
    assert (await post(stage, "mfa/activate", session["access_token"], code=first)).status_code == 200
    asked = (await post(stage, "login", **person)).json()
    assert (await post(stage, "mfa/verify", mfa_token=asked["mfa_token"], code="000000")).status_code == 400
    assert (await post(stage, "login", email="cleo@example.com", password="wrong")).status_code == 401
    assert (await post(stage, "mfa/verify", mfa_token=asked["mfa_token"], code=second)).status_code == 200
    assert [event["event"] for event in await told(stage, 1)] == ["login"]
    entry = (await stage.logs("keep"))[0]
    assert (entry["trigger"], entry["statusCode"]) == ("auth_hook", 200)
    await hook(stage, None)
    assert (await post(stage, "login", email="bob@example.com", password=PASSWORD)).status_code == 200
    assert len(await stage.logs("keep")) == 5


async def test_a_hook_that_fails_or_hangs_keeps_nobody_out(stage: Stage) -> None:
    with pytest.raises(ToolFailed):
        await hook(stage, "nowhere")
    fails = "export const handler = () => { throw new Error('no luck') }"
    await stage.deploy("fails", fails)
    await stage.deploy("hangs", "export const handler = () => new Promise(() => {})", timeoutMs=300)
    for name in ("fails", "hangs"):
        await hook(stage, name)
        answer = await post(stage, "login", email="bob@example.com", password=PASSWORD)
        assert (answer.status_code, answer.json()["user"]["email"]) == (200, "bob@example.com")
    with anyio.fail_after(20):
        while not (failed := await stage.logs("fails")) or not (hung := await stage.logs("hangs")):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    assert (failed[0]["trigger"], failed[0]["statusCode"], failed[0]["error"]) == ("auth_hook", 500, "Error: no luck")
    assert (hung[0]["trigger"], hung[0]["statusCode"]) == ("auth_hook", 504)
    await stage.mcp("manage_function", action="delete", app_id=stage.app.id, function_name="hangs", confirm=True)
    assert (await post(stage, "login", email="bob@example.com", password=PASSWORD)).status_code == 200
    await hook(stage, None)


async def make_due(stage: Stage) -> list[outbox.Event]:
    """What a server finds that looks when all pauses and leases are over."""
    await stage.deps.control.execute("update brolly.function_events set due_at = now() where app_id = $1", stage.app.id)
    return [event for event in await outbox.take_due(stage.deps) if event.app_id == stage.app.id]


async def sign_in(stage: Stage) -> None:
    """What a login announces, up to the server's end between the answer and the run."""
    app = await stage.deps.registry.get(stage.owner, stage.app.id)
    keep = stage.deps.capabilities["keep_auth_hook"]
    async with users_of(stage.deps, app) as connection:
        await keep(stage.deps, app, connection, {"event": "login", "user": {"id": "u"}})


async def test_what_a_server_took_into_its_end_runs_by_another(stage: Stage) -> None:
    await stage.deps.control.execute("delete from brolly.function_events where app_id = $1", stage.app.id)
    await stage.deploy("once", KEEP.replace("told, trigger", "told, key: ctx.trigger.idempotencyKey, trigger"))
    await hook(stage, "once")
    await sign_in(stage)
    assert await outbox.take_due(stage.deps) == []
    await stage.deploy("once", "export const handler = () => { throw new Error('not yet') }")
    [event] = await make_due(stage)
    await outbox.deliver(stage.deps, event)
    assert await outbox.take_due(stage.deps) == []
    assert (await stage.logs("once"))[0]["error"] == "Error: not yet"
    await stage.deploy("once", KEEP.replace("told, trigger", "told, key: ctx.trigger.idempotencyKey, trigger"))
    [again] = await make_due(stage)
    assert (again.id, again.attempts) == (event.id, 3)
    await outbox.deliver(stage.deps, again)
    [seen] = await told(stage, 1)
    assert (seen["event"], seen["key"]) == ("login", event.id)
    assert await make_due(stage) == []
    # Tries end.
    await stage.deploy("once", "export const handler = () => new Response('no', { status: 503 })")
    await sign_in(stage)
    [event] = await make_due(stage)
    await outbox.deliver(stage.deps, replace(event, attempts=len(outbox.PAUSES) + 1))
    assert await make_due(stage) == []
    await hook(stage, None)


async def test_an_event_counts_once_its_sign_in_is_committed(stage: Stage) -> None:
    """Whatever ends between the event and the commit: the event is there before, and asks Postgres about the other."""
    await stage.deploy("counted", KEEP)
    await hook(stage, "counted")
    app = await stage.deps.registry.get(stage.owner, stage.app.id)
    keep = stage.deps.capabilities["keep_auth_hook"]

    async def fail() -> None:
        async with users_of(stage.deps, app) as connection:
            await keep(stage.deps, app, connection, {"event": "rolled back"})
            # While the sign-in is still at it, nobody knows yet.
            [event] = await make_due(stage)
            await outbox.deliver(stage.deps, event)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    [event] = await make_due(stage)
    await outbox.deliver(stage.deps, event)
    assert await make_due(stage) == []
    async with users_of(stage.deps, app) as connection:
        await keep(stage.deps, app, connection, {"event": "committed"})
    [event] = await make_due(stage)
    await outbox.deliver(stage.deps, event)
    assert [seen["event"] for seen in await told(stage, 1)] == ["committed"]
    assert len(await stage.logs("counted")) == 1
    await hook(stage, None)


async def upload(stage: Stage, who: str, **more: Any) -> dict[str, Any]:
    """Send a picture by a signed link, as that user."""
    wanted = {"filename": "cat.png", "contentType": "image/png", "sizeBytes": len(PNG), **more}
    headers = {"Authorization": f"Bearer {stage.tokens[who]}"}
    link = await stage.http.post(f"/storage/{stage.app.id}/upload", json=wanted, headers=headers)
    assert link.status_code == 200, link.text
    sent = await stage.http.put(link.json()["upload_url"], content=PNG, headers=link.json()["headers"])
    assert sent.status_code == 200, sent.text
    return link.json()


async def test_an_upload_sets_off_the_functions_that_want_it(stage: Stage) -> None:
    def wants(**config: str) -> list[dict[str, Any]]:
        return [{"type": "s3_upload", "config": config}]

    await stage.deploy("keep", KEEP, triggers=wants(prefix="albums/", content_type="image/*"))
    await stage.deploy("texts", KEEP, triggers=wants(content_type="text/plain"))
    await stage.deploy("elsewhere", KEEP, triggers=wants(prefix="other/"))
    await upload(stage, "ann")
    link = await upload(stage, "ann", folder="albums/2026")
    assert await told(stage, 1) == [
        {
            "object_id": link["object_id"], "key": link["objectKey"], "user_id": stage.ids["ann"],
            "folder": "albums/2026/", "filename": "cat.png", "content_type": "image/png", "size_bytes": len(PNG),
            "public": False, "trigger": "s3_upload", "header": "s3_upload",
        }
    ]  # fmt: skip
    assert [len(await stage.logs(name)) for name in ("texts", "elsewhere")] == [0, 0]
    assert (await stage.logs("keep"))[0]["trigger"] == "s3_upload"


async def test_links_to_files_are_those_of_the_caller(stage: Stage) -> None:
    code = """export async function handler(request: Request, ctx: any) {
      const { up, down } = await request.json();
      try { return Response.json(up ? await ctx.storage.uploadUrl(up) : await ctx.storage.downloadUrl(down)); }
      catch (error) { return Response.json({ code: error.code, message: error.message }, { status: 400 }); }
    }"""
    await stage.deploy("files", code)
    wanted = {"filename": "a.png", "content_type": "image/png", "size_bytes": len(PNG)}
    link = (await stage.call("files", "ann", json={"up": wanted})).json()
    sent = await stage.http.put(link["upload_url"], content=PNG, headers=link["headers"])
    assert sent.status_code == 200, sent.text
    for down in (link["object_id"], {"object_id": link["object_id"]}, {"objectId": link["object_id"]}):
        got = (await stage.call("files", "ann", json={"down": down})).json()
        assert (await stage.http.get(got["download_url"])).content == PNG
    assert "download_url" in (await stage.call("files", "owner", json={"down": link["object_id"]})).json()
    for who in ("bob", None):
        refused = (await stage.call("files", who, json={"down": link["object_id"]})).json()
        assert refused["code"] == "RESOURCE_NOT_FOUND"
    bobs = (await stage.call("files", "bob", json={"up": wanted})).json()
    async with http_client(stage.deps, stage.tokens["bob"]) as http:
        listed = (await http.get(f"/storage/{stage.app.id}/objects")).json()
    assert bobs["object_id"] in str(listed)
    assert link["object_id"] not in str(listed)
    assert (await stage.call("files", json={"up": wanted})).json()["code"] == "AUTH_REQUIRED"
    for wrong in ({}, {**wanted, "size_bytes": 0}, {**wanted, "app_id": "x"}, {**wanted, "filename": "../up"}):
        assert (await stage.call("files", "ann", json={"up": wrong})).json()["code"].startswith("VALIDATION_")
