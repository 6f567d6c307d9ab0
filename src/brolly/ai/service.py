"""What the tool and other slices ask of the gateway."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.ai.access import Visit, count_call, of_app, refuse_readers, visit_app
from brolly.ai.chat import ChatStream, chat
from brolly.ai.config import config_of, owned_provider
from brolly.ai.embedding import EmbeddingResult, embed
from brolly.ai.models import list_models
from brolly.ai.providers import platform_providers
from brolly.ai.request import ChatRequest, EmbeddingRequest, parse
from brolly.core.caller import Caller
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App


class Chat(AppParams):
    """Parameters of chat."""

    messages: list[dict[str, Any]]
    model: str | None = None
    # Taken, but not told of: the list of tools has to stay short, and the tool's page says it.
    max_tokens: SkipJsonSchema[int | None] = None
    temperature: SkipJsonSchema[float | None] = None
    tools: SkipJsonSchema[list[dict[str, Any]] | None] = None
    tool_choice: SkipJsonSchema[Any] = None
    response_format: SkipJsonSchema[dict[str, Any] | None] = None


class Embed(AppParams):
    """Parameters of embed."""

    input: list[str]
    model: str | None = None
    encoding_format: SkipJsonSchema[str | None] = None
    dimensions: SkipJsonSchema[int | None] = None

    @field_validator("input", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class ChatResult:
    """What the model said. ``usage`` has prompt_tokens, completion_tokens and total_tokens."""

    text: str
    model: str
    usage: dict[str, int]
    finish: str = "stop"
    """Why it ended: ``stop``, or another reason of OpenAI's, such as ``length``."""


async def tool_chat(deps: Deps, caller: Caller, params: Chat) -> dict[str, Any]:
    """The whole answer as an OpenAI chat completion."""
    request = parse(ChatRequest, params.model_dump(exclude_none=True, exclude={"app_id"}))
    return await chat(await visit_app(deps, caller, params.app_id), request)


async def tool_embed(deps: Deps, caller: Caller, params: Embed) -> dict[str, Any]:
    """Vectors as OpenAI's embeddings."""
    request = parse(EmbeddingRequest, params.model_dump(exclude_none=True, exclude={"app_id"}))
    return await embeddings(await visit_app(deps, caller, params.app_id), request)


async def tool_models(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """What the app can ask for."""
    app = await deps.registry.get(caller, params.app_id)
    owned = owned_provider(deps, app)
    providers = platform_providers(deps.settings)
    return await list_models(deps, (owned, *providers) if owned else providers, config_of(app))


async def embeddings(at: Visit, request: EmbeddingRequest) -> dict[str, Any]:
    """Vectors as OpenAI's embeddings have them."""
    await count_call(at)
    done: EmbeddingResult = await embed(at, request.texts, request.model, request.dimensions)
    encode = _packed if request.encoding_format == "base64" else list[float]
    return {
        "object": "list",
        "model": done.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(done.vectors)
        ],
        "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
    }


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def complete_chat(
    deps: Deps,
    caller: Caller,
    app: App,
    messages: Sequence[Mapping[str, Any]],
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> ChatResult:
    """One answer to the messages (OpenAI's form), counted as the app's usage. Refused to who may only read."""
    refuse_readers(deps, caller)
    given = {
        "messages": [dict(message) for message in messages],
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "response_format": response_format,
    }
    request = parse(ChatRequest, {name: value for name, value in given.items() if value is not None})
    answer = await chat(of_app(deps, caller, app), request)
    used: dict[str, Any] = answer.get("usage") or {}
    counts = {name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    choice: dict[str, Any] = answer["choices"][0]
    text = choice["message"].get("content") or ""
    return ChatResult(text, answer["model"], counts, choice.get("finish_reason") or "stop")


async def app_chat(deps: Deps, caller: Caller, app: App, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request in OpenAI's form, for who is known to may use the app."""
    return await chat(of_app(deps, caller, app), parse(ChatRequest, {**body, "stream": False}))


async def app_embed(deps: Deps, caller: Caller, app: App, body: Mapping[str, Any]) -> dict[str, Any]:
    """As ``app_chat``, for embeddings."""
    return await embeddings(of_app(deps, caller, app), parse(EmbeddingRequest, dict(body)))


async def open_chat(deps: Deps, caller: Caller, app: App, body: Mapping[str, Any]) -> ChatStream:
    """A stream that has begun; whoever opened it reads ``chunks`` and calls ``end``."""
    stream = ChatStream(of_app(deps, caller, app), parse(ChatRequest, dict(body)))
    try:
        await stream.begin()
    except BaseException:
        await stream.end()
        raise
    return stream
