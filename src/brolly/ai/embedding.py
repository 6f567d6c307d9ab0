"""Texts to vectors: by the local model, or by the provider that the model's name begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """One vector for each text, in their order. ``model`` is what to ask for to get the same space again."""

    model: str
    dimension: int
    vectors: list[list[float]]
    tokens: int


async def embed_texts(deps: Deps, app: App, texts: Sequence[str], model: str | None = None) -> EmbeddingResult:
    """A vector for each text, for the app's account. Without ``model`` by what the app embeds with."""
    local = deps.local_model
    if model not in (None, local.name):
        raise AppError(
            "MODEL_NOT_FOUND",
            f"There is no embedding model {model!r} here.",
            remediation="Call manage_app list.",
        )
    done = await local.embed(texts)
    return EmbeddingResult(local.name, local.dimension, done.vectors, done.tokens)
