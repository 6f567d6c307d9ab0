"""What every provider's protocol offers here: requests out, answers and streams in, all in OpenAI's form."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from brolly.ai.prices import Usage
from brolly.ai.providers import Provider
from brolly.ai.request import Body
from brolly.ai.sse import Event

Object = dict[str, Any]


class BrokenAnswer(Exception):  # noqa: N818
    """What came is not what the protocol says."""


class ProviderFailed(Exception):  # noqa: N818
    """The provider said in the middle of a stream that it cannot go on."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a provider. ``path`` follows the provider's base URL."""

    path: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an embeddings call gave."""

    vectors: list[list[float]]
    tokens: int


class Reader(Protocol):
    """Reads one stream: events in, chunks of OpenAI's form out."""

    usage: Usage | None
    done: bool
    """Whether the provider said that this was all."""

    def feed(self, event: Event) -> list[Object]:
        """The chunks that follow from the event."""
        ...


class Wire(Protocol):
    """One provider protocol."""

    def chat(self, provider: Provider, model: str, body: Body, limit: int | None, stream: bool) -> Call:
        """The call for a chat request in OpenAI's form; ``limit`` is the most tokens of the answer."""
        ...

    def answer(self, data: Object, model: str) -> tuple[Object, Usage | None]:
        """The provider's answer as a chat completion."""
        ...

    def reader(self, model: str) -> Reader:
        """A reader for a stream."""
        ...

    def embed(self, provider: Provider, model: str, texts: Sequence[str], dimensions: int | None) -> Call:
        """The call for embeddings."""
        ...

    def vectors(self, data: Object) -> Vectors:
        """The embeddings of the provider's answer, in the order of the texts."""
        ...

    def models(self, provider: Provider) -> tuple[str, Mapping[str, str]]:
        """Path and headers of the list of models."""
        ...

    def names(self, data: Object) -> list[str]:
        """The names in the provider's list of models."""
        ...


def new_id() -> str:
    """An id for an answer whose provider gives none."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def completion(
    answer_id: str, model: str, message: Object, finish: str, usage: Usage | None, created: int | None = None
) -> Object:
    """A chat completion with one choice."""
    made: Object = {
        "id": answer_id,
        "object": "chat.completion",
        "created": created or int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
    }
    if usage is not None:
        made["usage"] = usage.openai()
    return made


class Chunks:
    """Makes the chunks of one stream."""

    def __init__(self, model: str, answer_id: str = "") -> None:
        self.id, self.model, self.created = answer_id or new_id(), model, int(time.time())

    def of(self, delta: Object, finish: str | None = None) -> Object:
        """A chunk with one choice."""
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
        }


def usage_chunk(chunk_id: str, model: str, usage: Usage) -> Object:
    """The last chunk of a stream whose caller asked for the usage."""
    return {
        "id": chunk_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": [],
        "usage": usage.openai(),
    }


def parsed(text: str) -> Object:
    """An object of the stream; raises ``BrokenAnswer`` for anything else."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenAnswer("a part of the stream is not JSON") from None
    if not isinstance(value, dict):
        raise BrokenAnswer("a part of the stream is not an object")
    return cast(Object, value)


def number(value: Any) -> int:
    """A count of tokens; 0 for what is none."""
    return value if isinstance(value, int) and value >= 0 else 0


def objects(value: Any) -> list[Object]:
    """The objects of a list; empty for what is none."""
    return (
        [cast(Object, one) for one in cast(list[Any], value) if isinstance(one, dict)]
        if isinstance(value, list)
        else []
    )


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in objects(content) if part.get("type") == "text")


def arguments_of(call: Mapping[str, Any]) -> Any:
    """The arguments of a tool call as an object."""
    function: Any = call.get("function") or {}
    try:
        value: Any = json.loads(function.get("arguments") or "{}")
    except ValueError:
        value = None
    return cast(Object, value) if isinstance(value, dict) else {}


def data_url(url: str) -> tuple[str, str] | None:
    """Type and base64 of a data address; None for any other."""
    if not url.startswith("data:"):
        return None
    head, _, data = url[5:].partition(",")
    return (head.removesuffix(";base64") or "image/png"), data


def json_text(value: Any) -> str:
    """As the arguments of a call are written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def schema_of(response_format: Any) -> Object | None:
    """The JSON schema that the answer must follow, if one was given."""
    if not isinstance(response_format, dict):
        return None
    given = cast(Object, response_format)
    held: Any = given.get("json_schema")
    if given.get("type") != "json_schema" or not isinstance(held, dict):
        return None
    schema: Any = cast(Object, held).get("schema")
    return cast(Object, schema) if isinstance(schema, dict) else None
