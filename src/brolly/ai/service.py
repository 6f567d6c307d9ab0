"""Chat with a model, for an app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App


@dataclass(frozen=True, slots=True)
class ChatResult:
    """What the model said. ``usage`` has prompt_tokens, completion_tokens and total_tokens."""

    text: str
    model: str
    usage: dict[str, int]


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
    """One answer to the messages (OpenAI's form), counted as the app's usage."""
    raise AppError(
        "STATE_PREREQUISITE_MISSING",
        "No model provider is configured.",
        remediation="Set BROLLY_AI_PROVIDERS; manage_app list works without.",
    )
