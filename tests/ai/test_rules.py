"""Who may call models, by whose key, how much, and for how many dollars; and what works without any provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx
import openai
import pytest

from brolly.ai import bodies, models
from brolly.apps import provision
from brolly.core.errors import AppError
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.engines.embedding import LOCAL_MODEL
from tests.ai.conftest import MODELS, Gateway
from tests.ai.provider import KEY
from tests.blob.serving import serving
from tests.conftest import McpCall, ToolFailed, hold_open, http_client, make_owner, mcp_session


@asynccontextmanager
async def as_mcp(gateway: Gateway, **settings: Any) -> AsyncIterator[McpCall]:
    deps = replace(gateway.deps, settings=replace(gateway.deps.settings, **settings))
    call, close = await hold_open(mcp_session(deps, gateway.owner))
    try:
        yield call
    finally:
        await close()


def code_of(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


async def test_users_and_keys_may_call_and_nobody_else(gateway: Gateway) -> None:
    assert (await gateway.ask("say hi", "A")).status_code == 200
    assert code_of(await gateway.ask("say hi", "nobody")) == "AUTH_REQUIRED"
    assert (await gateway.usage())["byUser"][gateway.ids["A"]]["requests"] == 1
    # Users see no rules and no usage.
    for path in ("config", "usage"):
        assert (await gateway.clients["A"].get(f"/v1/{gateway.app.id}/ai/{path}")).status_code == 401
    other, key = await make_owner(gateway.deps)
    app_id, _ = await provision.create(gateway.deps, str(other.account_id), "other", "self-hosted")
    await gateway.configure(byokKey="sk-or-secret-of-the-first-app", defaultModel="openai/first")
    body = {"messages": [{"role": "user", "content": "say hi"}]}
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}) as stranger:
        sent = {"input": "x", "config": {"defaultModel": "openai/second"}}
        for method, path in (("GET", "ai/config"), ("GET", "ai/usage"), ("PUT", "ai/config"), ("POST", "embeddings")):
            answer = await stranger.request(method, f"/v1/{gateway.app.id}/{path}", json=sent)
            assert answer.status_code == 404, (method, path, answer.text)
        assert (await stranger.post(f"/v1/{gateway.app.id}/chat/completions", json=body)).status_code == 404
        # A user of one app is nobody at another, whose rules and usage are its own.
        answer = await gateway.clients["A"].post(f"/v1/{app_id}/chat/completions", json=body)
        assert (answer.status_code, code_of(answer)) == (401, "AUTH_INVALID_END_USER_JWT")
        assert (await stranger.get(f"/v1/{app_id}/ai/config")).json() == {"config": {}}
        assert (await stranger.post(f"/v1/{app_id}/chat/completions", json=body)).json()["model"] == MODELS["openai"]
        assert (await stranger.get(f"/v1/{app_id}/ai/usage")).json()["totalRequests"] == 1
    await provision.delete(gateway.deps, await gateway.deps.registry.get(other, app_id))


async def test_the_account_has_a_gateway_without_an_app(gateway: Gateway) -> None:
    service = gateway.clients["service"]
    body = {"model": MODELS["openai"], "messages": [{"role": "user", "content": "say hi"}]}
    assert (await service.post("/v1/chat/completions", json=body)).json()["model"] == MODELS["openai"]
    assert (await service.post("/v1/embeddings", json={"input": "x", "model": "local"})).json()["model"] == LOCAL_MODEL
    assert MODELS["google"] in [model["id"] for model in (await service.get("/v1/models")).json()["data"]]
    rows = await gateway.deps.control.fetch(
        "select model from brolly.ai_usage where account_id = $1 and app_id is null", gateway.owner.account_id
    )
    assert {row["model"] for row in rows} == {MODELS["openai"], LOCAL_MODEL}
    _, narrow = await make_owner(gateway.deps, (f"app:{gateway.app.id}",), gateway.owner.account_id)
    for key, expected in ((narrow, "AUTH_FORBIDDEN"), (None, "AUTH_REQUIRED")):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
            answer = await client.post("/v1/chat/completions", json=body)
            assert code_of(answer) == expected
            assert answer.json()["error"]["type"]


async def test_an_owners_key_is_used_hidden_and_removed(gateway: Gateway) -> None:
    private = replace(gateway.deps.settings, allow_private_network=True)
    deps = replace(gateway.deps, settings=private)
    address = f"http://127.0.0.1:{gateway.provider.port}/v1"
    async with mcp_session(deps, gateway.owner) as mcp:
        config = {"byokKey": KEY, "byokProvider": "anthropic", "byokBaseUrl": address}
        shown = await mcp("manage_ai", action="update_config", app_id=gateway.app.id, config=config)
        assert shown["config"]["byokKey"] == "***1234"
        read = await mcp("manage_ai", action="get_config", app_id=gateway.app.id)
        assert KEY not in json.dumps(read)
        stored = await gateway.deps.control.fetchrow(
            "select ai_config::text as config, ai_key from brolly.apps where id = $1", gateway.app.id
        )
        assert KEY not in stored["config"]
        assert KEY.encode() not in bytes(stored["ai_key"])
        # An address that an owner gave leads out of this machine's network only where the operator allows it.
        messages = [{"role": "user", "content": "say byok"}]
        with pytest.raises(ToolFailed) as failed:
            await mcp("manage_ai", action="chat", app_id=gateway.app.id, messages=messages, model="anthropic/x")
        assert (failed.value.code, "may not be called" in failed.value.error["message"]) == ("MODEL_UNAVAILABLE", True)
        # The stored key goes to no other address.
        moved = {"byokBaseUrl": "http://127.0.0.1:9/v1"}
        with pytest.raises(ToolFailed, match="byokKey"):
            await mcp("manage_ai", action="update_config", app_id=gateway.app.id, config=moved)
        cleared = await mcp("manage_ai", action="update_config", app_id=gateway.app.id, config={"byokKey": ""})
        assert "byokKey" not in cleared["config"]
    answer = await gateway.clients["service"].put(
        f"/v1/{gateway.app.id}/ai/config", json={"byokKey": "x", "byokBaseUrl": "http://169.254.169.254/latest"}
    )
    assert code_of(answer) == "VALIDATION_INVALID_SCHEMA"
    for wrong in ({"maxTokensPerRequest": 100_001}, {"defautModel": "x"}, {}, {"byokKey": "whose-is-this"}):
        answer = await gateway.clients["service"].put(f"/v1/{gateway.app.id}/ai/config", json=wrong)
        assert answer.status_code == 400, wrong


async def test_allowed_models_and_the_most_tokens_hold(gateway: Gateway) -> None:
    await gateway.configure(allowedModels=["openai/*"], maxTokensPerRequest=20, defaultModel=MODELS["openai"])
    assert code_of(await gateway.ask("say hi", model=MODELS["google"])) == "MODEL_NOT_ALLOWED"
    assert code_of(await gateway.ask("x", path="embeddings", input="x", model="google/gemini-embedding-001")) == (
        "MODEL_NOT_ALLOWED"
    )
    await gateway.ask("say clamped", max_tokens=5000)
    await gateway.ask("say clamped")
    assert [call["body"]["max_completion_tokens"] for call in await gateway.provider.seen("say clamped")] == [20, 20]


async def test_a_cap_holds_for_calls_at_the_same_moment(gateway: Gateway) -> None:
    price = {"openai/gpt-5-mini": {"input": 0, "output": 1_000_000}}
    # A call of 7 tokens costs 7 dollars; room is taken for the 10 that it may have.
    await gateway.configure(spendingCapUsd=35, prices=price)
    codes: list[int] = []

    async def call() -> None:
        codes.append((await gateway.ask("say one", max_tokens=10)).status_code)

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(call)
    usage = await gateway.usage()
    assert 200 in codes
    assert 402 in codes
    assert usage["spentThisMonthUsd"] == 7 * codes.count(200) <= 35
    assert await gateway.deps.control.fetchval("select count(*) from brolly.ai_reservations") == 0
    # A call that fails gives its room back.
    await gateway.configure(spendingCapUsd=usage["spentThisMonthUsd"] + 10)
    assert (await gateway.ask("html", max_tokens=10)).status_code == 502
    assert (await gateway.ask("say last", max_tokens=10)).status_code == 200
    assert code_of(await gateway.ask("say too much", max_tokens=10)) == "INSUFFICIENT_CREDITS"
    assert code_of(await gateway.ask("say x", model="openai/unheard-of")) == "STATE_PREREQUISITE_MISSING"


async def test_one_user_cannot_call_without_end(gateway: Gateway) -> None:
    await gateway.configure(userRequestsPerMinute=2)
    answers = [(await gateway.ask("say hi", "A")).status_code for _ in range(4)]
    assert answers.count(429) >= 1
    assert (await gateway.ask("say hi", "B")).status_code == 200
    assert (await gateway.ask("say hi")).status_code == 200


async def test_bodies_are_kept_only_where_the_owner_asks_and_no_longer(gateway: Gateway) -> None:
    await gateway.ask("say secret")
    count = "select count(*) from brolly.ai_bodies where app_id = $1"
    assert await gateway.deps.control.fetchval(count, gateway.app.id) == 0
    await gateway.configure(logBodies=True, logBodyDays=2)
    await gateway.ask("say kept", "A")
    row = await gateway.deps.control.fetchrow(
        "select *, ends_at - at as kept from brolly.ai_bodies where app_id = $1", gateway.app.id
    )
    assert ("say kept" in row["request"], row["answer"], row["user_id"]) == (True, "kept ", gateway.ids["A"])
    assert row["kept"].days == 2
    await gateway.deps.control.execute("update brolly.ai_bodies set ends_at = now()")
    await bodies.sweep(gateway.deps)
    assert await gateway.deps.control.fetchval(count, gateway.app.id) == 0


async def test_embeddings_come_in_order_or_not_at_all(gateway: Gateway) -> None:
    texts = ["x" * length for length in range(1, 131)]
    for model in ("openai/text-embedding-3-small", "google/gemini-embedding-001"):
        answer = await gateway.ask("", path="embeddings", input=texts, model=model)
        rows = answer.json()["data"]
        assert [row["embedding"][0] for row in rows[:100]] == [float(n) for n in range(1, 101)]
        assert len(rows) == 130
    for wrong in ("ragged", "missing"):
        answer = await gateway.ask("", path="embeddings", input=["a", wrong], model="openai/text-embedding-3-small")
        assert code_of(answer) == "MODEL_BROKEN_ANSWER"
    for wrong in ([], [""], [1, 2], "x" * 2_000_001):
        answer = await gateway.ask("", path="embeddings", input=wrong, model="local")
        assert answer.status_code == 400
    assert code_of(await gateway.ask("", path="embeddings", input="x", model=MODELS["anthropic"])) == "MODEL_NOT_FOUND"


async def test_bad_requests_say_what_is_wrong_and_reach_nobody(gateway: Gateway) -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
        {"temperature": 3},
        {"tools": [{"type": "function"}]},
    )
    for wrong in wrongs:
        answer = await gateway.ask("never sent", **wrong)
        assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_INVALID_SCHEMA"), wrong
    assert not await gateway.provider.seen("never sent")


async def test_the_official_client_works_unchanged(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1/{gateway.app.id}/ai", api_key=gateway.key) as client:
        messages: Any = [{"role": "user", "content": "say official words"}]
        whole = await client.chat.completions.create(model=MODELS["anthropic"], messages=messages)
        assert whole.choices[0].message.content == "official words "
        stream = await client.chat.completions.create(model=MODELS["google"], messages=messages, stream=True)
        assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "official words "
        vectors = await client.embeddings.create(model=LOCAL_MODEL, input=["a", "b"])
        assert len(vectors.data[1].embedding) == 256
        assert MODELS["anthropic"] in [model.id async for model in await client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nowhere/x", messages=messages)
        broken: Any = [{"role": "user", "content": "error a b c d"}]
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(model=MODELS["openai"], messages=broken, stream=True):
                pass


async def test_without_a_provider_texts_are_embedded_and_chat_says_what_to_do(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "LOOPBACK", {"ollama": "http://127.0.0.1:9"})
    call: dict[str, Any] = {"app_id": gateway.app.id, "messages": [{"role": "user", "content": "hi"}]}
    async with as_mcp(gateway, ai_providers=()) as mcp:
        made = await mcp("manage_ai", action="embed", app_id=gateway.app.id, input="an umbrella")
        assert (made["model"], len(made["data"][0]["embedding"])) == (LOCAL_MODEL, 256)
        with pytest.raises(ToolFailed) as failed:
            await mcp("manage_ai", action="chat", **call)
        assert failed.value.code == "STATE_PREREQUISITE_MISSING"
        assert "update_config" in failed.value.error["remediation"]
        assert "BROLLY_AI_PROVIDERS" in failed.value.error["remediation"]
        # A model server on this machine is found and offered, not used unasked.
        async with serving(ollama) as address:
            monkeypatch.setattr(models, "LOOPBACK", {"ollama": address})
            with pytest.raises(ToolFailed) as failed:
                await mcp("manage_ai", action="chat", **call)
            assert failed.value.error["details"] == {"found": {"ollama": ["llama3.2"]}}
            assert "BROLLY_AI_PROVIDERS=ollama" in failed.value.error["remediation"]
            listed = await mcp("manage_ai", action="list_models", app_id=gateway.app.id)
            assert listed["found"] == {"ollama": ["llama3.2"]}
    async with as_mcp(gateway, ai_providers=(f"lab=http://127.0.0.1:{gateway.provider.port}/v1",)) as mcp:
        with pytest.raises(ToolFailed) as failed:
            await mcp("manage_ai", action="chat", **call)
        assert failed.value.code == "NO_MODEL"


async def ollama(scope: Any, receive: Any, send: Any) -> None:
    """As Ollama lists its models."""
    assert scope["path"] == "/v1/models"
    body = json.dumps({"object": "list", "data": [{"id": "llama3.2", "object": "model"}]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def test_a_read_only_server_calls_no_models(deps: Deps, owner_key: str, app: Any) -> None:
    deps = replace(deps, settings=replace(deps.settings, read_only=True))
    async with http_client(deps, owner_key) as client:
        answer = await client.post(f"/v1/{app.id}/embeddings", json={"input": "x"})
    assert code_of(answer) == "AUTH_FORBIDDEN"


@pytest.mark.parametrize("entry", ["Open AI=key", "lab=ftp://host/v1", "lab=https://", "=key"])
def test_a_provider_that_cannot_be_is_refused_at_start_without_its_key(entry: str) -> None:
    with pytest.raises(AppError) as failed:
        load_settings({"BROLLY_AI_PROVIDERS": entry})
    assert failed.value.code == "CONFIG_INVALID"
    assert "key" not in failed.value.message.replace("name=KEY", "").replace("KEY", "")
