"""Texts as vectors: of which model, of what length, and what the model calls a token.

A collection keeps the name of its model. Vectors are asked for by that name, so that another default, or another
provider, never puts vectors of two models side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App

BATCH = 100


@dataclass(frozen=True, slots=True)
class Space:
    """What a collection's vectors are: the model that makes them, and their length."""

    model: str
    dimensions: int


async def space_of(deps: Deps, app: App, model: str | None) -> Space:
    """The space of that model, or of the app's default; it is asked for one vector to know the length."""
    chosen, vectors = await _ask(deps, app, ["How long is a vector?"], model)
    return Space(chosen, len(vectors[0]))


async def embed(deps: Deps, app: App, space: Space, texts: Sequence[str]) -> list[list[float]]:
    """A vector of the space for each text. Raises when what comes does not fit the space."""
    _, vectors = await _ask(deps, app, texts, space.model)
    for vector in vectors:
        if len(vector) != space.dimensions:
            raise AppError(
                "STATE_PREREQUISITE_MISSING",
                f"{space.model} answered with vectors of {len(vector)} numbers; the collection's have "
                f"{space.dimensions}.",
                remediation="Make a collection for these with manage_rag_content create_collection.",
            )
    return vectors


async def _ask(deps: Deps, app: App, texts: Sequence[str], model: str | None) -> tuple[str, list[list[float]]]:
    embedded = await deps.capabilities["embed_texts"](deps, app, list(texts), model=model)
    if len(embedded.vectors) != len(texts):
        raise AppError(
            "MODEL_BROKEN_ANSWER", f"{len(texts)} texts were sent, and {len(embedded.vectors)} vectors came back."
        )
    return embedded.model, embedded.vectors


def as_text(vector: Sequence[float]) -> str:
    """A vector as Postgres reads it."""
    return "[" + ",".join(format(number, ".7g") for number in vector) + "]"
