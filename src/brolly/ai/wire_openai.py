"""OpenAI's protocol: OpenAI itself, OpenRouter, Ollama, vLLM, llama.cpp, LM Studio and the many that speak it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from brolly.ai.prices import Usage
from brolly.ai.providers import Provider
from brolly.ai.request import Body
from brolly.ai.sse import Event
from brolly.ai.wire import BrokenAnswer, Call, Object, ProviderFailed, Vectors, new_id, number, objects, parsed


def _headers(provider: Provider) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.key}"} if provider.key else {}


def read_usage(given: Any) -> Usage | None:
    """The usage as OpenAI words it, with what OpenRouter and DeepSeek add."""
    if not isinstance(given, dict):
        return None
    usage = cast(Object, given)
    prompt: Any = usage.get("prompt_tokens_details") or {}
    answer: Any = usage.get("completion_tokens_details") or {}
    cost: Any = usage.get("cost")
    return Usage(
        prompt=number(usage.get("prompt_tokens")),
        completion=number(usage.get("completion_tokens")),
        cached=number(prompt.get("cached_tokens")) or number(usage.get("prompt_cache_hit_tokens")),
        reasoning=number(answer.get("reasoning_tokens")),
        cost=Decimal(str(cost)) if isinstance(cost, int | float) and not isinstance(cost, bool) and cost > 0 else None,
    )


class OpenAIWire:
    """Requests go out almost as they came in."""

    def chat(self, provider: Provider, model: str, body: Body, limit: int | None, stream: bool) -> Call:
        """The call for a chat request."""
        sent = {name: value for name, value in body.items() if name not in ("max_tokens", "max_completion_tokens")}
        if limit is not None:
            # OpenAI's newer models refuse the old name, others' servers do not know the new one.
            sent["max_completion_tokens" if provider.prices == "openai" else "max_tokens"] = limit
        sent = {"model": model, **sent}
        if stream:
            sent |= {"stream": True, "stream_options": {"include_usage": True}}
        return Call("/chat/completions", sent, _headers(provider))

    def answer(self, data: Object, model: str) -> tuple[Object, Usage | None]:
        """The answer, checked and under the model's full name."""
        choices = objects(data.get("choices"))
        if not choices or not all(isinstance(choice.get("message"), dict) for choice in choices):
            raise BrokenAnswer("there is no message in it")
        made = {"object": "chat.completion", **data, "model": model}
        made.setdefault("id", new_id())
        return made, read_usage(data.get("usage"))

    def reader(self, model: str) -> OpenAIReader:
        """A reader for a stream."""
        return OpenAIReader(model)

    def embed(self, provider: Provider, model: str, texts: Sequence[str], dimensions: int | None) -> Call:
        """The call for embeddings."""
        body: Body = {"model": model, "input": list(texts), "encoding_format": "float"}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return Call("/embeddings", body, _headers(provider))

    def vectors(self, data: Object) -> Vectors:
        """The vectors by their index."""
        rows = sorted(objects(data.get("data")), key=lambda row: number(row.get("index")))
        usage = read_usage(data.get("usage"))
        return Vectors([_vector(row.get("embedding")) for row in rows], usage.prompt if usage else 0)

    def models(self, provider: Provider) -> tuple[str, Mapping[str, str]]:
        """Path and headers of the list of models."""
        return "/models", _headers(provider)

    def names(self, data: Object) -> list[str]:
        """The models' ids."""
        return [row["id"] for row in objects(data.get("data")) if isinstance(row.get("id"), str)]


def _vector(value: Any) -> list[float]:
    if isinstance(value, str):
        raw = base64.b64decode(value)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if isinstance(value, list) and all(isinstance(one, int | float) for one in cast(list[Any], value)):
        return [float(one) for one in cast(list[Any], value)]
    raise BrokenAnswer("an embedding is not a list of numbers")


class OpenAIReader:
    """Chunks pass through; the usage is taken out of them."""

    def __init__(self, model: str) -> None:
        self.usage: Usage | None = None
        self.done = False
        self._model = model

    def feed(self, event: Event) -> list[Object]:
        """The chunk of the event."""
        if event.data.strip() == "[DONE]":
            self.done = True
            return []
        chunk = parsed(event.data)
        if chunk.get("error"):
            error: Any = chunk["error"]
            said = cast(Object, error).get("message") if isinstance(error, dict) else error
            raise ProviderFailed(str(said)[:300])
        self.usage = read_usage(chunk.pop("usage", None)) or self.usage
        choices = objects(chunk.get("choices"))
        if not choices:
            return []
        # Some servers end without [DONE]: the reason to end is as good.
        self.done = self.done or all(choice.get("finish_reason") for choice in choices)
        chunk["model"] = self._model
        chunk.setdefault("object", "chat.completion.chunk")
        return [chunk]
