"""What callers ask: chat completions and embeddings in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from brolly.core.errors import AppError
from brolly.core.wording import in_json, sentence

Body = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MOST_MESSAGES = 2000
MOST_INPUTS = 2048
LONGEST_INPUT = 2_000_000
_PICTURE_TOKENS = 1500
_LETTERS_PER_TOKEN = 3


class ChatRequest(BaseModel):
    """A chat request. What is not named here goes to providers of OpenAI's form as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_MESSAGES)
    model: str | None = Field(None, max_length=300)
    models: list[str] | None = Field(None, max_length=10)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=16)
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=256)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("messages")
    @classmethod
    def _messages(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for at, message in enumerate(messages):
            if message.get("role") not in ROLES:
                raise ValueError(f"messages[{at}].role must be one of {', '.join(ROLES)}")
            content = message.get("content")
            if content is None and message["role"] != "assistant":
                raise ValueError(f"messages[{at}].content is missing")
            if content is not None and not isinstance(content, str):
                _check_parts(f"messages[{at}].content", content)
        return messages

    @field_validator("tools")
    @classmethod
    def _tools(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for at, tool in enumerate(tools or ()):
            function: Any = tool.get("function")
            if tool.get("type", "function") == "function" and not (
                isinstance(function, dict) and isinstance(cast(Body, function).get("name"), str)
            ):
                raise ValueError(f"tools[{at}].function.name is missing")
        return tools

    @property
    def limit(self) -> int | None:
        """The most tokens that the caller wants of an answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for a last part of the stream with the usage."""
        return bool(self.stream_options and self.stream_options.get("include_usage"))

    def body(self) -> Body:
        """The request as it was sent, without what is ours."""
        return self.model_dump(exclude_unset=True, exclude={"models", "model", "stream", "stream_options"})


def _check_parts(where: str, content: Any) -> None:
    if not isinstance(content, list):
        raise ValueError(f"{where} must be text or a list of parts")
    for at, given in enumerate(cast(list[Any], content)):
        part = cast(Body, given) if isinstance(given, dict) else {}
        kind = part.get("type")
        if not isinstance(kind, str):
            raise ValueError(f"{where}[{at}].type is missing")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"{where}[{at}].text must be text")
        if kind == "image_url" and not picture_url(part):
            raise ValueError(f"{where}[{at}].image_url.url must be an https or data address")


def picture_url(part: Mapping[str, Any]) -> str:
    """The address of a picture part, in either of the forms that callers send; "" when there is none."""
    given: Any = part.get("image_url")
    url: Any = cast(Body, given).get("url") if isinstance(given, dict) else given
    return url if isinstance(url, str) and url.startswith(("https://", "http://", "data:")) else ""


class EmbeddingRequest(BaseModel):
    """An embeddings request."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: str | list[str] | list[int] | list[list[int]]
    model: str | None = Field(None, max_length=300)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=10_000)

    @property
    def texts(self) -> list[str]:
        """The texts; raises for tokens, which mean something else to each model."""
        found: Sequence[Any] = [self.input] if isinstance(self.input, str) else self.input
        if any(not isinstance(text, str) for text in found):
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                "input must be text or a list of texts; token numbers are not taken, as they belong to one model.",
                remediation="Send the texts themselves to manage_ai embed or POST /v1/{app_id}/embeddings.",
            )
        texts = cast(list[str], list(found))
        check_texts(texts)
        return texts


def check_texts(texts: Sequence[str]) -> None:
    """Raise unless there are texts, not too many, none empty and none endless."""
    blank = [at for at, text in enumerate(texts) if not text.strip()]
    if not texts or blank or len(texts) > MOST_INPUTS or max(map(len, texts)) > LONGEST_INPUT:
        what = f"input[{blank[0]}] is empty" if blank else f"input must hold 1 to {MOST_INPUTS} texts"
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{what}; each may have up to {LONGEST_INPUT} characters.",
            remediation="Leave empty texts out and send fewer at a time to manage_ai embed.",
        )


def parse(model: type[Any], body: Any) -> Any:
    """The body as that request; raises one error that names all that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as e:
        said = [
            sentence(f"{'.'.join(map(str, err['loc'])) or 'the body'}: {in_json(err)}")
            for err in e.errors(include_url=False)[:10]
        ]
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            " ".join(said),
            remediation="Send a request as OpenAI's API takes it; tools/manage_ai.md (butterbase_docs) has examples.",
        ) from None


def guess_prompt(request: ChatRequest) -> int:
    """About how many tokens the request has, rather too many: room that is taken of a cap before a call."""
    letters, pictures = 0, 0
    for message in request.messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = cast(list[Body], content)
            pictures += sum(part.get("type") != "text" for part in parts)
            letters += sum(len(str(part.get("text", ""))) for part in parts)
        else:
            letters += len(content or "")
        letters += len(json.dumps(message["tool_calls"])) if message.get("tool_calls") else 0
    for given in (request.tools, request.response_format):
        letters += len(json.dumps(given)) if given else 0
    return letters // _LETTERS_PER_TOKEN + pictures * _PICTURE_TOKENS + 8 * len(request.messages)
