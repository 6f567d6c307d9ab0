"""Meaning of texts as vectors, without an account or a network: the model that lies in wordllama's wheel.

The wheel's files are read as they are. wordllama's own loader would set up logging for the whole process, import
what downloads, and pad each batch to its longest text; what it computes, the mean of the words' vectors, is a few
lines. Ours differs in two ways, which tests/rag measures: punctuation counts for nothing, and frequent tokens for
less than rare ones. A vector is where the words that tell texts apart point to.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from brolly.core.errors import AppError

T = TypeVar("T")

LOCAL_MODEL = "local/wordllama-l2-256"
"""What the vectors are called. Another file or another way to compute needs another name: spaces are never mixed."""
LOCAL_DIMENSION = 256
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_THREADS = 2
_BETWEEN_WORDS = re.compile(r"[!-/:-@\[-`{-~\s\u2010-\u205e]+")
"""Blanks and punctuation. Not all that is no letter: marks above and below letters belong to the word."""
_HALF_WEIGHT = 1000
"""The token from which on a token counts at least half: they are numbered by falling frequency."""
_TOKENS_AT_ONCE = 16_384
"""The words' vectors of so many tokens are in memory at once, 16 MB."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector of length 1 for each text, and how many tokens all of them had."""

    vectors: list[list[float]]
    tokens: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    numpy: Any
    tokenizer: Any
    weights: Any


def _folder() -> Path:
    # Without importing the package.
    found = importlib.util.find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        raise AppError(
            "CONFIG_INVALID",
            "The package wordllama, which carries the local embedding model, is not installed.",
            remediation="Install Brolly again with its dependencies; pip check names what is missing.",
        )
    return Path(found.submodule_search_locations[0])


def _load() -> _Loaded:
    import numpy
    from safetensors import safe_open
    from tokenizers import Tokenizer

    folder = _folder()
    tokenizer: Any = Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    opened: Any = safe_open(str(folder / _WEIGHTS), "np")
    with opened as file:
        # Kept as it lies in the file, in half precision: twice the numbers would say nothing more.
        weights = file.get_tensor("embedding.weight")
    return _Loaded(numpy, tokenizer, weights)


class LocalModel:
    """The model, read when it is first asked. Its work is done in threads, so that nobody waits for it."""

    name = LOCAL_MODEL
    dimension = LOCAL_DIMENSION

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()
        self._threads: anyio.CapacityLimiter | None = None

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector for each text; one without any word gets zeros."""
        return await self._aside(partial(self.embed_now, texts))

    async def count_tokens(self, text: str) -> int:
        """How many tokens the text has for this model."""
        return len(await self.token_spans(text))

    async def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token begins and ends in the text, in characters."""
        return await self._aside(partial(self.spans_now, text))

    async def _aside(self, work: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def spans_now(self, text: str) -> list[tuple[int, int]]:
        """As ``token_spans``, for code that is in a thread of its own."""
        encoding = self._model().tokenizer.encode(text, add_special_tokens=False)
        return list(encoding.offsets)

    def embed_now(self, texts: Sequence[str]) -> Embedded:
        """As ``embed``, for code that is in a thread of its own."""
        model = self._model()
        # One by one: a batch would start threads of the tokenizer's own, and give it all texts' tokens at once.
        vectors: list[list[float]] = []
        tokens = 0
        for text in texts:
            words = _BETWEEN_WORDS.sub(" ", text).strip()
            ids = model.tokenizer.encode(words, add_special_tokens=False).ids
            tokens += len(ids)
            vectors.append(self._mean(model, ids))
        return Embedded(vectors, tokens)

    def _mean(self, model: _Loaded, ids: list[int]) -> list[float]:
        numpy = model.numpy
        total = numpy.zeros(LOCAL_DIMENSION, numpy.float32)
        for at in range(0, len(ids), _TOKENS_AT_ONCE):
            part = numpy.minimum(ids[at : at + _TOKENS_AT_ONCE], len(model.weights) - 1)
            weight = (part / (part + _HALF_WEIGHT)).astype(numpy.float32)
            total += weight @ model.weights[part].astype(numpy.float32)
        length = float(numpy.linalg.norm(total))
        return (total / length if length else total).tolist()

    def _model(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load()
            return self._loaded
