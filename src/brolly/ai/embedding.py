"""Texts to vectors: by the local model, or by the provider that the model's name begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import httpx

from brolly.ai.access import Visit, of_app
from brolly.ai.config import AiConfig
from brolly.ai.models import Target, find_target
from brolly.ai.prices import Usage, cost_of
from brolly.ai.providers import Provider
from brolly.ai.request import check_texts
from brolly.ai.spending import release, reserve, settle
from brolly.ai.upstream import json_of, opened, told
from brolly.ai.wire import BrokenAnswer, Vectors
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.engines.embedding import LOCAL_MODEL
from brolly.registry import App

BATCH = 100
_LETTERS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """One vector for each text, in their order. ``model`` is what to ask for to get the same space again."""

    model: str
    dimension: int
    vectors: list[list[float]]
    tokens: int


async def embed_texts(deps: Deps, app: App, texts: Sequence[str], model: str | None = None) -> EmbeddingResult:
    """A vector for each text, counted as the app's usage. Without ``model`` by what the app embeds with."""
    return await embed(of_app(deps, Caller("service", account_id=app.account_id), app), texts, model)


async def embed(at: Visit, texts: Sequence[str], model: str | None, dimensions: int | None = None) -> EmbeddingResult:
    """As ``embed_texts``, for whoever visits."""
    check_texts(texts)
    name = model or default_embedding(at.deps, at.providers, at.config)
    if name in (LOCAL_MODEL, "local"):
        return await _locally(at, texts, dimensions)
    target = find_target(at.providers, name) if at.providers else None
    if target is None or target.provider.protocol == "anthropic":
        raise AppError(
            "MODEL_NOT_FOUND",
            f"Nobody here embeds with {name[:200]!r}.",
            remediation=f"Use {LOCAL_MODEL}, or a model that manage_ai list_models shows for embeddings.",
        )
    if not (at.config.allows(target.name) or at.config.allows(target.model)):
        raise AppError("MODEL_NOT_ALLOWED", f"The app does not allow the model {target.name}.")
    return await _remotely(at, target, texts, dimensions)


def default_embedding(deps: Deps, providers: Sequence[Provider], config: AiConfig) -> str:
    """What an app embeds with unless told otherwise."""
    named = config.embedding_model or deps.settings.ai_embedding_model
    if named:
        return named
    for provider in providers:
        if provider.embedding_model:
            return f"{provider.name}/{provider.embedding_model}"
    return LOCAL_MODEL


async def _locally(at: Visit, texts: Sequence[str], dimensions: int | None) -> EmbeddingResult:
    local = at.deps.local_model
    if dimensions not in (None, local.dimension):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{local.name} has {local.dimension} dimensions.",
            remediation="Leave dimensions out of manage_ai embed, or name another model.",
        )
    done = await local.embed(texts)
    await settle(
        at.deps, at.account, local.name, Usage(prompt=done.tokens), cost_of(_HERE, "", Usage(), at.config), None
    )
    return EmbeddingResult(local.name, local.dimension, done.vectors, done.tokens)


_HERE = Provider("local", "openai", "http://127.0.0.1")


async def _remotely(at: Visit, target: Target, texts: Sequence[str], dimensions: int | None) -> EmbeddingResult:
    vectors: list[list[float]] = []
    tokens = 0
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        done = await _batch(at, target, batch, dimensions)
        vectors += done.vectors
        tokens += done.tokens
    sizes = {len(vector) for vector in vectors}
    if len(sizes) != 1 or 0 in sizes or (dimensions or sizes.copy().pop()) not in sizes:
        raise told(target, BrokenAnswer(f"its vectors have {', '.join(map(str, sorted(sizes)))} dimensions"))
    return EmbeddingResult(target.name, sizes.pop(), vectors, tokens)


async def _batch(at: Visit, target: Target, texts: Sequence[str], dimensions: int | None) -> Vectors:
    guess = Usage(prompt=sum(len(text) // _LETTERS_PER_TOKEN + 1 for text in texts))
    reservation: str | None = None
    if at.config.cap is not None and at.app is not None:
        expected = cost_of(target.provider, target.model, guess, at.config)
        if expected is None:
            raise AppError(
                "STATE_PREREQUISITE_MISSING",
                f"Nobody knows what {target.name} costs, and the app has a spending cap.",
                remediation="Say it with manage_ai update_config and prices, or embed with " + LOCAL_MODEL + ".",
            )
        reservation = await reserve(at.deps, at.app, expected, at.config.cap)
    try:
        call = target.wire.embed(target.provider, target.model, texts, dimensions)
        with anyio.fail_after(at.deps.settings.ai_timeout * 2):
            async with opened(at.deps, target, call) as response:
                done = target.wire.vectors(await json_of(response))
        if len(done.vectors) != len(texts):
            raise BrokenAnswer(f"it has {len(done.vectors)} vectors for {len(texts)} texts")
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await release(at.deps, reservation)
        if isinstance(error, httpx.HTTPError | TimeoutError | BrokenAnswer):
            raise told(target, error) from None
        raise
    usage = Usage(prompt=done.tokens) if done.tokens else Usage(prompt=guess.prompt, estimated=True)
    cost = cost_of(target.provider, target.model, usage, at.config)
    await settle(at.deps, at.account, target.name, usage, cost, reservation)
    return Vectors(done.vectors, usage.prompt)
