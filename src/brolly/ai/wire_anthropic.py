"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from brolly.ai.prices import Usage
from brolly.ai.providers import Provider
from brolly.ai.request import Body, picture_url
from brolly.ai.sse import Event
from brolly.ai.wire import (
    BrokenAnswer,
    Call,
    Chunks,
    Object,
    ProviderFailed,
    Vectors,
    arguments_of,
    completion,
    data_url,
    json_text,
    number,
    objects,
    parsed,
    schema_of,
    text_of,
)

VERSION = "2023-06-01"
DEFAULT_LIMIT = 4096
"""The API wants a limit; OpenAI's does not."""
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_PASSED = ("top_p", "top_k", "thinking", "service_tier")


def _headers(provider: Provider) -> dict[str, str]:
    return {"x-api-key": provider.key, "anthropic-version": VERSION}


class AnthropicWire:
    """System messages go to the top, results of tools into the user's turn, and limits are always said."""

    def chat(self, provider: Provider, model: str, body: Body, limit: int | None, stream: bool) -> Call:
        """The call for a chat request."""
        messages = objects(body.get("messages"))
        sent: Body = {
            # Elsewhere the models are called by numbers with points.
            "model": model.replace(".", "-"),
            "max_tokens": limit or DEFAULT_LIMIT,
            "messages": _turns(messages),
        }
        system = "\n\n".join(text_of(m.get("content")) for m in messages if m["role"] in ("system", "developer"))
        if system:
            sent["system"] = system
        if body.get("temperature") is not None:
            sent["temperature"] = min(body["temperature"], 1)
        stop: Any = body.get("stop")
        if stop:
            sent["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        sent |= {name: body[name] for name in _PASSED if body.get(name) is not None}
        if isinstance(body.get("user"), str):
            sent["metadata"] = {"user_id": body["user"]}
        sent |= _tools(body)
        output = _output(body)
        if output:
            sent["output_config"] = output
        if stream:
            sent["stream"] = True
        return Call("/messages", sent, _headers(provider))

    def answer(self, data: Object, model: str) -> tuple[Object, Usage | None]:
        """Blocks of text together, blocks of tools as calls."""
        if not isinstance(data.get("content"), list):
            raise BrokenAnswer("there is no content in it")
        blocks = objects(data["content"])
        text = "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
        thought = "".join(str(block.get("thinking", "")) for block in blocks if block.get("type") == "thinking")
        calls = [
            {
                "id": str(block.get("id")),
                "type": "function",
                "function": {"name": str(block.get("name")), "arguments": json_text(block.get("input") or {})},
            }
            for block in blocks
            if block.get("type") == "tool_use"
        ]
        message: Object = {"role": "assistant", "content": text or (None if calls else "")}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        usage = _usage(data.get("usage"), Usage())
        finish = _FINISH.get(str(data.get("stop_reason")), "stop")
        return completion(str(data.get("id") or ""), model, message, finish, usage), usage

    def reader(self, model: str) -> AnthropicReader:
        """A reader for a stream."""
        return AnthropicReader(model)

    def embed(self, provider: Provider, model: str, texts: Sequence[str], dimensions: int | None) -> Call:
        """There are no embeddings in this API."""
        raise NotImplementedError

    def vectors(self, data: Object) -> Vectors:
        """There are no embeddings in this API."""
        raise NotImplementedError

    def models(self, provider: Provider) -> tuple[str, Mapping[str, str]]:
        """Path and headers of the list of models."""
        return "/models?limit=1000", _headers(provider)

    def names(self, data: Object) -> list[str]:
        """The models' ids."""
        return [row["id"] for row in objects(data.get("data")) if isinstance(row.get("id"), str)]


def _turns(messages: list[Object]) -> list[Object]:
    """The messages without the system's, those of one side in a row as one turn."""
    turns: list[Object] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            continue
        side = "assistant" if role == "assistant" else "user"
        blocks = _blocks(message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": side, "content": blocks})
    for turn in turns:
        # Results come first in the turn that answers calls.
        if turn["role"] == "user":
            turn["content"].sort(key=_after_results)
    return turns


def _after_results(block: Object) -> bool:
    return block["type"] != "tool_result"


def _blocks(message: Object) -> list[Object]:
    content: Any = message.get("content")
    if message["role"] in ("tool", "function"):
        result = [block for part in _parts(content) if (block := _block(part)) is not None]
        called = message.get("tool_call_id") or message.get("name")
        return [{"type": "tool_result", "tool_use_id": str(called), "content": result or ""}]
    blocks = [block for part in _parts(content) if (block := _block(part)) is not None]
    for call in objects(message.get("tool_calls")):
        function = cast(Object, call.get("function") or {})
        blocks.append(
            {"type": "tool_use", "id": str(call.get("id")), "name": function.get("name"), "input": arguments_of(call)}
        )
    return blocks


def _parts(content: Any) -> list[Object]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)


def _block(part: Object) -> Object | None:
    if part.get("type") == "text":
        # Empty ones are refused.
        return {"type": "text", "text": part["text"]} if part["text"].strip() else None
    url, kind = picture_url(part), "image"
    if part.get("type") == "file":
        given: Any = part.get("file") or {}
        url, kind = str(given.get("file_data") or ""), "document"
    if not url:
        return None
    inline = data_url(url)
    if inline is None:
        return {"type": kind, "source": {"type": "url", "url": url}}
    return {"type": kind, "source": {"type": "base64", "media_type": inline[0], "data": inline[1]}}


def _tools(body: Body) -> Object:
    tools = [cast(Object, tool["function"]) for tool in objects(body.get("tools")) if tool.get("function")]
    if not tools:
        return {}
    made: Object = {
        "tools": [
            {
                "name": function["name"],
                **({"description": function["description"]} if function.get("description") else {}),
                "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
            }
            for function in tools
        ]
    }
    wanted: Any = body.get("tool_choice")
    choice: Object = {"type": "auto"}
    if isinstance(wanted, str):
        choice = {"type": _CHOICES.get(wanted, "auto")}
    elif isinstance(wanted, dict):
        choice = {"type": "tool", "name": cast(Object, wanted).get("function", {}).get("name")}
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    if wanted is not None or "disable_parallel_tool_use" in choice:
        made["tool_choice"] = choice
    return made


def _output(body: Body) -> Object:
    made: Object = {}
    schema = schema_of(body.get("response_format"))
    if schema is not None:
        made["format"] = {"type": "json_schema", "schema": schema}
    effort: Any = body.get("reasoning_effort")
    if effort in ("low", "medium", "high", "xhigh", "max"):
        made["effort"] = effort
    return made


def _usage(given: Any, before: Usage) -> Usage:
    """The usage; a stream tells what went in first and what came out at the end."""
    usage: Object = cast(Object, given) if isinstance(given, dict) else {}
    cached = number(usage.get("cache_read_input_tokens", before.cached))
    written = number(usage.get("cache_creation_input_tokens", before.cache_written))
    fresh = usage.get("input_tokens")
    prompt = number(fresh) + cached + written if fresh is not None else before.prompt
    completed = number(usage.get("output_tokens", before.completion))
    return Usage(prompt=prompt, completion=completed, cached=cached, cache_written=written)


class AnthropicReader:
    """Blocks that open, grow and close become deltas."""

    def __init__(self, model: str) -> None:
        self.usage: Usage | None = None
        self.done = False
        self._chunks = Chunks(model)
        self._tools: dict[int, int] = {}
        self._given: set[int] = set()

    def feed(self, event: Event) -> list[Object]:
        """The chunks of the event; those of unknown kinds are passed over, as the API asks."""
        data = parsed(event.data)
        kind = data.get("type")
        if kind == "error":
            error: Any = data.get("error") or {}
            raise ProviderFailed(f"{error.get('type')}: {str(error.get('message'))[:300]}")
        if kind == "message_start":
            return self._start(cast(Object, data.get("message") or {}))
        if kind == "content_block_start":
            return self._open(number(data.get("index")), cast(Object, data.get("content_block") or {}))
        if kind == "content_block_delta":
            return self._grow(number(data.get("index")), cast(Object, data.get("delta") or {}))
        if kind == "content_block_stop":
            return self._close(number(data.get("index")))
        if kind == "message_delta":
            self.usage = _usage(data.get("usage"), self.usage or Usage())
            reason: Any = cast(Object, data.get("delta") or {}).get("stop_reason")
            return [self._chunks.of({}, _FINISH.get(reason, "stop"))] if reason else []
        if kind == "message_stop":
            self.done = True
        return []

    def _start(self, message: Object) -> list[Object]:
        self._chunks.id = str(message.get("id") or self._chunks.id)
        self.usage = _usage(message.get("usage"), Usage())
        return [self._chunks.of({"role": "assistant", "content": ""})]

    def _open(self, index: int, block: Object) -> list[Object]:
        if block.get("type") == "text" and block.get("text"):
            return [self._chunks.of({"content": block["text"]})]
        if block.get("type") != "tool_use":
            return []
        place = self._tools[index] = len(self._tools)
        function = {"name": block.get("name"), "arguments": ""}
        call = {"index": place, "id": block.get("id"), "type": "function", "function": function}
        return [self._chunks.of({"tool_calls": [call]})]

    def _grow(self, index: int, delta: Object) -> list[Object]:
        kind = delta.get("type")
        if kind == "text_delta":
            return [self._chunks.of({"content": str(delta.get("text", ""))})]
        if kind == "thinking_delta":
            return [self._chunks.of({"reasoning_content": str(delta.get("thinking", ""))})]
        if kind == "input_json_delta" and index in self._tools and delta.get("partial_json"):
            self._given.add(index)
            return [self._arguments(index, str(delta["partial_json"]))]
        return []

    def _close(self, index: int) -> list[Object]:
        # Clients read the arguments as JSON, which nothing is not.
        return [self._arguments(index, "{}")] if index in self._tools and index not in self._given else []

    def _arguments(self, index: int, text: str) -> Object:
        return self._chunks.of({"tool_calls": [{"index": self._tools[index], "function": {"arguments": text}}]})
