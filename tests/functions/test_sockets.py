"""Functions that an event of a realtime socket runs, through the capability that realtime uses."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from tests.conftest import ToolFailed
from tests.functions.conftest import Stage

CHAT = """
export async function handler(request: Request, ctx: any) {
  const { event, payload } = await request.json();
  if (payload === "throw") throw new Error("thrown");
  if (payload === "text") return new Response("just text", { status: 418 });
  const { rows } = await ctx.db.query("insert into notes (body) values ($1) returning user_id", [payload.body]);
  return Response.json({ event, who: ctx.user?.id ?? null, owner: rows[0].user_id, trigger: ctx.trigger });
}
"""


async def test_an_event_runs_its_function_as_who_sent_it(stage: Stage) -> None:
    def wants(**config: Any) -> list[dict[str, Any]]:
        return [{"type": "websocket", "config": {"event": "chat:send", **config}}]

    async def send(caller: Caller, payload: Any, event: str = "chat:send", channel: str | None = None) -> Any:
        app = await stage.deps.registry.get(stage.owner, stage.app.id)
        return await stage.deps.capabilities["run_event"](stage.deps, app, caller, event, payload, channel)

    ann = Caller("user", user_id=stage.ids["ann"], claims={"sub": stage.ids["ann"], "role": "authenticated"})
    await stage.deploy("chat", CHAT, triggers=wants())
    assert await send(ann, {"body": "over a socket"}, channel="room-1") == {
        "event": "chat:send", "who": stage.ids["ann"], "owner": stage.ids["ann"],
        "trigger": {"type": "websocket", "event": "chat:send", "channel": "room-1"},
    }  # fmt: skip
    seen = await stage.sql("select body from notes where body = 'over a socket'", who="bob")
    assert seen["rows"] == []
    assert await send(ann, "text") == "just text"
    with pytest.raises(AppError) as failed:
        await send(ann, "throw")
    assert (failed.value.code, failed.value.status) == ("FUNCTION_FAILED", 500)
    with pytest.raises(AppError, match=r"^No handler for event: other$"):
        await send(ann, {}, "other")
    # Policies hold for who is nobody, and the trigger may ask for more.
    with pytest.raises(AppError) as refused:
        await send(anonymous(), {"body": "x"})
    assert refused.value.code == "FUNCTION_FAILED"
    entry = (await stage.logs("chat"))[0]
    assert (entry["trigger"], entry["caller"], entry["statusCode"]) == ("websocket", "anonymous", 500)
    await stage.deploy("chat", CHAT, triggers=wants(auth="required"))
    with pytest.raises(AppError) as refused:
        await send(anonymous(), {"body": "x"})
    assert refused.value.code == "AUTH_REQUIRED"
    for wrong in (wants(event="a\nb"), wants(event=""), wants(auth="maybe"), [{"type": "websocket"}]):
        with pytest.raises(ToolFailed):
            await stage.deploy("wrong", CHAT, triggers=wrong)
    with pytest.raises(ToolFailed, match="chat has the event"):
        await stage.deploy("second", CHAT, triggers=wants())
    assert (await stage.call("chat", "ann", json={})).status_code == 404


async def test_a_function_takes_larger_bodies_than_the_rest(stage: Stage) -> None:
    await stage.deploy(
        "length", "export const handler = async (r: Request) => new Response((await r.blob()).size + '')"
    )
    size = 4 * stage.deps.settings.body_limit
    assert (await stage.call("length", content=b"x" * size)).text == str(size)
    refused = await stage.call("length", content=b"x" * (stage.deps.settings.function_body_limit + 1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
