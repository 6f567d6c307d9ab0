"""Which provider answers for a model's name, and which models there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpx

from brolly.ai.config import AiConfig
from brolly.ai.prices import facts_of
from brolly.ai.providers import Provider, canonical
from brolly.ai.wire import BrokenAnswer, Object, Wire
from brolly.ai.wire_anthropic import AnthropicWire
from brolly.ai.wire_google import GoogleWire
from brolly.ai.wire_openai import OpenAIWire
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.engines.embedding import LOCAL_DIMENSION, LOCAL_MODEL

WIRES: dict[str, Wire] = {"openai": OpenAIWire(), "anthropic": AnthropicWire(), "google": GoogleWire()}
LOOPBACK = {"ollama": "http://127.0.0.1:11434", "lmstudio": "http://127.0.0.1:1234"}
"""Where model servers of one's own machine listen unless told otherwise."""
_LOOK_SECONDS = 1.0
_LIST_SECONDS = 10.0
_LONGEST_LIST = 8 * 1024 * 1024
_FIRST = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a provider."""

    provider: Provider
    model: str

    @property
    def name(self) -> str:
        """As callers name it."""
        return f"{self.provider.name}/{self.model}"

    @property
    def wire(self) -> Wire:
        """How its provider is spoken to."""
        return WIRES[self.provider.protocol]


def find_target(providers: Sequence[Provider], name: str) -> Target:
    """The model of that name; raises ``MODEL_NOT_FOUND``. The owner's provider stands first and goes first."""
    prefix, sign, rest = name.partition("/")
    prefix = canonical(prefix)
    for provider in providers:
        if sign and provider.name == prefix and rest:
            return Target(provider, rest)
        if provider.owned and provider.takes_any:
            return Target(provider, name)
    for provider in providers:
        if provider.takes_any or (provider.name == "custom" and provider.owned):
            return Target(provider, name)
    if not sign and providers:
        return Target(providers[0], name)
    names = ", ".join(provider.name for provider in providers)
    raise AppError(
        "MODEL_NOT_FOUND",
        f"There is no provider for the model {name[:200]!r}; here are: {names}.",
        remediation="Name a model of theirs, as manage_ai list_models shows them, or give a key with "
        "manage_ai update_config byokKey.",
    )


async def chat_targets(
    deps: Deps, providers: Sequence[Provider], config: AiConfig, wanted: Sequence[str]
) -> list[Target]:
    """The models to ask, one after another until one answers; those that are not allowed are left out."""
    if not providers:
        raise await nobody(deps)
    first = config.default_model or deps.settings.ai_model
    names = list(wanted) or [first or default_of(providers)]
    names += [name for name in config.fallback_models if name not in names]
    found = [find_target(providers, names[0])]
    for name in names[1:]:
        try:
            found.append(find_target(providers, name))
        except AppError:
            continue
    allowed = [target for target in found if config.allows(target.name) or config.allows(target.model)]
    if not allowed or allowed[0] is not found[0]:
        raise AppError(
            "MODEL_NOT_ALLOWED",
            f"The app does not allow the model {found[0].name}.",
            details={"allowedModels": list(config.allowed_models)},
        )
    return allowed


def default_of(providers: Iterable[Provider]) -> str:
    """The first provider's own choice for chat."""
    for provider in providers:
        if provider.chat_model:
            return f"{provider.name}/{provider.chat_model}"
    raise AppError("NO_MODEL", "No model was named, and neither app nor server has a default.")


async def nobody(deps: Deps) -> AppError:
    """The error where no provider is configured: what to set, and what listens on this machine already."""
    servers = await look_around(deps)
    if servers:
        name, models = next(iter(servers.items()))
        said = ", ".join(models[:_FIRST]) or "no model yet"
        return AppError(
            "STATE_PREREQUISITE_MISSING",
            f"No model provider is configured, but {name} listens on this machine, with {said}.",
            remediation=f"Start the server with BROLLY_AI_PROVIDERS={name}, then repeat manage_ai chat with model "
            f"{name}/{models[0] if models else 'NAME'}.",
            details={"found": servers},
        )
    return AppError(
        "STATE_PREREQUISITE_MISSING",
        "No model provider is configured, so nothing can chat; embeddings work without one.",
        remediation="Call manage_ai update_config with config {byokKey: <a key of OpenAI, Anthropic, Google or "
        "OpenRouter>}, or let the operator set BROLLY_AI_PROVIDERS (openai=KEY, or ollama for one on this machine).",
    )


async def look_around(deps: Deps) -> dict[str, list[str]]:
    """The model servers that answer on this machine's usual ports, with their models."""
    found: dict[str, list[str]] = {}

    async def look(name: str, address: str) -> None:
        wire = WIRES["openai"]
        try:
            with anyio.fail_after(_LOOK_SECONDS):
                answer = await deps.outgoing.trusted.get(f"{address}/v1/models")
            if answer.status_code == 200:
                found[name] = wire.names(_object(answer.content))
        except (httpx.HTTPError, TimeoutError, BrokenAnswer):
            return

    async with anyio.create_task_group() as group:
        for name, address in LOOPBACK.items():
            group.start_soon(look, name, address)
    return found


def _object(content: bytes) -> Object:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise BrokenAnswer("not JSON") from None
    return cast(Object, value) if isinstance(value, dict) else {}


async def list_models(deps: Deps, providers: Sequence[Provider], config: AiConfig) -> dict[str, Any]:
    """What can be asked for: the providers' own lists as far as they answer, with prices, and the local model."""
    answers: dict[str, list[str]] = {}
    problems: dict[str, str] = {}

    async def ask(provider: Provider) -> None:
        path, headers = WIRES[provider.protocol].models(provider)
        client = deps.outgoing.guarded if provider.owned else deps.outgoing.trusted
        try:
            with anyio.fail_after(_LIST_SECONDS):
                answer = await client.get(provider.base_url + path, headers={**headers})
            if answer.status_code == 200 and len(answer.content) <= _LONGEST_LIST:
                answers[provider.name] = WIRES[provider.protocol].names(_object(answer.content))
            else:
                problems[provider.name] = f"answered with status {answer.status_code}"
        except (httpx.HTTPError, TimeoutError, BrokenAnswer) as error:
            problems[provider.name] = f"could not be read ({type(error).__name__})"

    async with anyio.create_task_group() as group:
        for provider in {one.name: one for one in reversed(providers)}.values():
            group.start_soon(ask, provider)
    models = [_local()]
    for provider in providers:
        for model in answers.pop(provider.name, []):
            name = f"{provider.name}/{model}"
            if config.allows(name) or config.allows(model):
                models.append(_described(provider, model))
    made: dict[str, Any] = {"models": models, "object": "list", "data": models}
    if problems:
        made["problems"] = problems
    if not providers:
        made["found"] = await look_around(deps)
    return made


def _local() -> dict[str, Any]:
    return {
        "id": LOCAL_MODEL,
        "object": "model",
        "name": "local",
        "provider": "local",
        "capabilities": ["embeddings"],
        "dimensions": LOCAL_DIMENSION,
        "context_window": None,
        "context_length": None,
        "pricing": {"input": 0.0, "output": 0.0},
        "prompt_price_per_mtok": 0.0,
        "completion_price_per_mtok": 0.0,
    }


def _described(provider: Provider, model: str) -> dict[str, Any]:
    facts = facts_of(provider.prices, model) if provider.prices else {}
    embeds = "embed" in model
    return {
        "id": f"{provider.name}/{model}",
        "object": "model",
        "name": facts.get("name", model),
        "display_name": facts.get("name", model),
        "provider": provider.name,
        "capabilities": ["embeddings"] if embeds else ["chat"],
        "context_window": facts.get("context_window"),
        "context_length": facts.get("context_window"),
        "pricing": {"input": facts.get("input"), "output": facts.get("output")} if facts else None,
        "prompt_price_per_mtok": facts.get("input"),
        "completion_price_per_mtok": facts.get("output"),
    }
