"""A function that chats: its own network is closed to the gateway, so it asks through the server's socket."""

from __future__ import annotations

import httpx

from tests.ai.conftest import MODELS, Gateway
from tests.conftest import mcp_session

CODE = """
export async function handler(request: Request, ctx: any) {
  const { said, stream, model } = await request.json();
  const messages = [{ role: "user", content: said }];
  if (said === "embed") return Response.json((await ctx.ai.embed("x", { model: "local" })).data[0].embedding.length);
  const answer = await ctx.ai.chat({ messages, model, stream });
  return stream ? answer : Response.json(answer.choices[0].message);
}
"""


async def test_a_function_chats_whole_and_streaming_as_its_caller(gateway: Gateway) -> None:
    async with mcp_session(gateway.deps, gateway.owner) as mcp:
        trigger = {"type": "http", "config": {"auth": "required"}}
        await mcp("deploy_function", app_id=gateway.app.id, name="chat", code=CODE, trigger=trigger)

    async def call(said: str, stream: bool = False) -> httpx.Response:
        body = {"said": said, "stream": stream, "model": MODELS["anthropic"]}
        return await gateway.clients["A"].post(f"/v1/{gateway.app.id}/fn/chat", json=body)

    assert (await call("say from a function")).json()["content"] == "from a function "
    assert (await call("embed")).json() == 256
    streamed = await call("say word by word", stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.count('"content":"') >= 3
    assert streamed.text.endswith("data: [DONE]\n\n")
    broken = await call("cut a b c d", stream=True)
    assert "MODEL_BROKEN_ANSWER" in broken.text
    assert (await gateway.usage())["byUser"][gateway.ids["A"]]["requests"] == 4
