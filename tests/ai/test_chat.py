"""Chat by each provider's own protocol: what goes out, what comes back, whole and in a stream."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from tests.ai.conftest import MODELS, NAMES, Gateway
from tests.ai.provider import CALLS, KEY

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
DOT = "iVBORw0KGgo="


def asked(call: dict[str, Any]) -> dict[str, Any]:
    return call["body"]


@pytest.mark.parametrize("name", NAMES)
async def test_an_answer_comes_whole_and_is_counted(gateway: Gateway, name: str) -> None:
    answer = await gateway.ask(f"say {name} whole", model=MODELS[name], max_tokens=50)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == f"{name} whole "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["object"] == "chat.completion"
    assert body["model"] == MODELS[name]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (11, 7)
    usage = await gateway.usage()
    assert usage["byModel"][MODELS[name]]["tokens"] == 18
    assert usage["totalCost"] > 0
    (call,) = await gateway.provider.seen(f"say {name} whole")
    sent = {"openai": "max_completion_tokens", "anthropic": "max_tokens", "google": "maxOutputTokens"}[name]
    assert asked(call).get("generationConfig", asked(call))[sent] == 50
    assert gateway.key not in json.dumps(call), "the caller's own key went to the provider"


@pytest.mark.parametrize("name", NAMES)
async def test_a_stream_has_the_same_words_and_the_same_count(gateway: Gateway, name: str) -> None:
    events = await gateway.stream(f"say {name} streams words", model=MODELS[name])
    assert events[-1] == "[DONE]"
    chunks: list[Any] = events[:-1]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == f"{name} streams words "
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks].count("stop") == 1
    # The usage was asked for upstream, and is not sent to who did not ask.
    assert all(c["choices"] and not c.get("usage") for c in chunks)
    counted = (await gateway.usage())["byModel"][MODELS[name]]
    assert (counted["promptTokens"], counted["completionTokens"], counted["requests"]) == (11, 7, 1)
    assert "estimated" not in counted
    *_, last, _ = await gateway.stream("say more", model=MODELS[name], stream_options={"include_usage": True})
    assert isinstance(last, dict)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 18


@pytest.mark.parametrize("name", NAMES)
async def test_tools_are_called_in_parallel_and_answered(gateway: Gateway, name: str) -> None:
    answer = (await gateway.ask("tools", model=MODELS[name], tools=[TOOL], tool_choice="required")).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    calls = choice["message"]["tool_calls"]
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        (name, arguments) for _, name, arguments in CALLS
    ]
    events = await gateway.stream("tools", model=MODELS[name], tools=[TOOL])
    built: dict[int, dict[str, str]] = {}
    for event in events[:-1]:
        assert isinstance(event, dict)
        for part in event["choices"][0]["delta"].get("tool_calls") or ():
            one = built.setdefault(part["index"], {"id": part.get("id", ""), "name": "", "arguments": ""})
            one["name"] += part["function"].get("name") or ""
            one["arguments"] += part["function"].get("arguments") or ""
    assert [json.loads(one["arguments"]) for one in built.values()] == [arguments for _, _, arguments in CALLS]
    assert all(one["id"] and one["name"] == "get_weather" for one in built.values())
    # And back: the calls as they came, with their results.
    results = [{"role": "tool", "tool_call_id": c["id"], "content": f"{at}°"} for at, c in enumerate(calls)]
    messages = [{"role": "user", "content": "before"}, {**choice["message"]}, *results]
    back = await gateway.ask(
        "", model=MODELS[name], tools=[TOOL], messages=[*messages, {"role": "user", "content": f"say {name} thanks"}]
    )
    assert back.status_code == 200, back.text
    (call,) = await gateway.provider.seen(f"say {name} thanks")
    sent = asked(call)
    if name == "anthropic":
        assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
        assert [block["type"] for block in sent["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
        assert sent["messages"][1]["content"][-1]["input"] == CALLS[1][2]
        assert sent["tools"][0]["input_schema"] == TOOL["function"]["parameters"]
    elif name == "google":
        assert [turn["role"] for turn in sent["contents"]] == ["user", "model", "user"]
        assert sent["contents"][1]["parts"][0]["thoughtSignature"] == "c2lnbmVk"
        assert sent["contents"][2]["parts"][0]["functionResponse"] == {
            "name": "get_weather",
            "response": {"result": "0°"},
        }
    else:
        assert sent["messages"][1]["tool_calls"] == calls


@pytest.mark.parametrize("name", NAMES)
async def test_system_pictures_and_schemas_are_translated(gateway: Gateway, name: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DOT}"}}
    text = {"type": "text", "text": f"say {name} sees"}
    answer = await gateway.ask(
        "",
        model=MODELS[name],
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": [picture, text]}],
        response_format={"type": "json_schema", "json_schema": {"name": "out", "strict": True, "schema": SCHEMA}},
        temperature=1.5,
        stop="END",
    )
    assert answer.status_code == 200, answer.text
    sent = asked((await gateway.provider.seen(f"say {name} sees"))[0])
    if name == "anthropic":
        assert sent["system"] == "Be brief."
        assert sent["messages"][0]["content"][0]["source"] == {"type": "base64", "media_type": "image/png", "data": DOT}
        assert sent["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
        assert (sent["temperature"], sent["stop_sequences"]) == (1, ["END"])
    elif name == "google":
        assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
        assert sent["contents"][0]["parts"][0] == {"inlineData": {"mimeType": "image/png", "data": DOT}}
        assert sent["generationConfig"]["responseJsonSchema"] == SCHEMA
        assert sent["generationConfig"]["stopSequences"] == ["END"]
    else:
        assert sent["messages"][1]["content"] == [picture, text]
        assert sent["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("html", "MODEL_BROKEN_ANSWER"),
        ("wrongtype", "MODEL_BROKEN_ANSWER"),
        ("status 400 - 9", "VALIDATION_INVALID_SCHEMA"),
        ("status 404 - 9", "MODEL_NOT_FOUND"),
        ("status 503 0 9", "MODEL_UNAVAILABLE"),
    ],
)
async def test_failures_are_told_apart(gateway: Gateway, name: str, order: str, code: str) -> None:
    for stream in (False, True):
        answer = await gateway.ask(f"{order} {name} {stream}", model=MODELS[name], stream=stream)
        error = answer.json()["error"]
        assert error["code"] == code, error
        assert KEY not in answer.text
        assert error["remediation"]
        if "400" in order:
            assert f"{name} says 400" in error["message"]
    assert (await gateway.usage())["totalRequests"] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["cut", "error"])
async def test_a_broken_stream_ends_with_an_error_and_is_counted(gateway: Gateway, name: str, order: str) -> None:
    *_, last = await gateway.stream(f"{order} one two three four", model=MODELS[name])
    assert isinstance(last, dict)
    assert last["error"]["code"] == ("MODEL_BROKEN_ANSWER" if order == "cut" else "MODEL_UNAVAILABLE")
    counted = (await gateway.usage())["byModel"][MODELS[name]]
    assert counted["requests"] == counted["estimated"] == 1
    assert counted["completionTokens"] > 0


async def test_a_busy_provider_is_asked_again_after_the_time_that_it_names(gateway: Gateway) -> None:
    assert (await gateway.ask("status 429 0.05 1")).status_code == 200
    assert len(await gateway.provider.seen("status 429 0.05 1")) == 2
    # One that wants more patience than a caller has is not waited for.
    answer = await gateway.ask("status 429 120 1")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "120")
    assert len(await gateway.provider.seen("status 429 120 1")) == 1


async def test_another_model_answers_where_the_first_fails(gateway: Gateway) -> None:
    answer = await gateway.ask("status 404 - 1", models=[MODELS["anthropic"], MODELS["google"]])
    assert answer.json()["model"] == MODELS["anthropic"]
    await gateway.configure(fallbackModels=["lab/other"], allowedModels=["openai/*", "lab/other"])
    events = await gateway.stream("status 401 - 1")
    assert isinstance(events[0], dict)
    assert events[0]["model"] == "lab/other"
    # What is wrong with the request is wrong everywhere.
    assert (await gateway.ask("status 400 - 2")).status_code == 400


async def test_a_slow_provider_is_given_up_and_one_that_has_begun_is_waited_for(gateway: Gateway) -> None:
    answer = await gateway.ask("silent", model="lab/x", stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "MODEL_TIMEOUT")
    events = await gateway.stream("slow 0.05 of words", model="lab/x")
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_hangs_up_ends_the_call_upstream(gateway: Gateway, stream: bool) -> None:
    said = "slow 0.2 a b c d e f g h" if stream else "silent as well"
    body = {"messages": [{"role": "user", "content": said}], "model": MODELS["anthropic"], "stream": stream}
    with anyio.move_on_after(0.7):
        async with gateway.clients["A"].stream("POST", f"/v1/{gateway.app.id}/chat/completions", json=body) as answer:
            async for _ in answer.aiter_bytes():
                pass
    for _ in range(100):
        (call,) = await gateway.provider.seen(said)
        if call["ended"]:
            break
        await anyio.sleep(0.05)
    assert call["ended"] == "client left"
    if stream:
        for _ in range(100):
            if found := (await gateway.usage())["byUser"]:
                break
            await anyio.sleep(0.05)
        assert found[gateway.ids["A"]]["estimated"] == 1
        assert found[gateway.ids["A"]]["promptTokens"] == 11


async def test_a_provider_that_tells_no_usage_is_counted_here(gateway: Gateway) -> None:
    await gateway.ask("nousage five words are in here")
    await gateway.stream("nousage five words are in here")
    counted = (await gateway.usage())["byModel"][MODELS["openai"]]
    assert (counted["requests"], counted["estimated"]) == (2, 2)
    assert counted["promptTokens"] >= 10
    assert counted["completionTokens"] >= 8
