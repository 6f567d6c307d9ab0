"""The model that every installation has: its makers' vectors of words, offline, with tokens that can be found."""

from __future__ import annotations

import json
import sys

import anyio

from brolly.engines.embedding import LOCAL_DIMENSION, LocalModel

TEXTS = ["How do I reset my password?", "An umbrella keeps the rain off.", "Füße, 傘, ☂ and\ncode()", "x " * 40_000]
WORDS = ["How do I reset my password", "An umbrella keeps the rain off", "Füße 傘 ☂ and code", ("x " * 40_000).strip()]
_THEIRS = """
import json, logging, sys
from pathlib import Path
import numpy, wordllama
from wordllama import WordLlama
model = WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
def vector(text):
    ids = numpy.array(model.tokenizer.encode(text, add_special_tokens=False).ids)
    total = (model.embedding[ids] * (ids / (ids + 1000))[:, None]).sum(axis=0)
    return (total / numpy.linalg.norm(total)).tolist()
print(json.dumps([vector(text) for text in json.load(sys.stdin)]))
"""


async def test_vectors_are_those_of_the_makers_program_with_frequent_words_and_punctuation_counting_less() -> None:
    # In a process of its own: importing it sets up logging.
    command = [sys.executable, "-c", _THEIRS]
    theirs = await anyio.run_process(command, input=json.dumps(WORDS).encode())
    ours = await LocalModel().embed(TEXTS)
    assert len(ours.vectors) == len(TEXTS)
    for vector, other in zip(ours.vectors, json.loads(theirs.stdout), strict=True):
        assert len(vector) == LOCAL_DIMENSION
        assert max(abs(a - b) for a, b in zip(vector, other, strict=True)) < 1e-3
        assert abs(sum(a * a for a in vector) - 1) < 1e-4


async def test_near_meanings_lie_near_and_tokens_are_counted_where_they_stand() -> None:
    model = LocalModel()
    question, near, far = (await model.embed(["forgotten password", TEXTS[0], TEXTS[1]])).vectors
    assert sum(a * b for a, b in zip(question, near, strict=True)) > sum(
        a * b for a, b in zip(question, far, strict=True)
    )
    text = "Grüße aus Köln: an umbrella ☂ costs 12 €.\n"
    spans = await model.token_spans(text)
    assert await model.count_tokens(text) == len(spans)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    none = await model.embed([""])
    assert none.tokens == 0
    assert set(none.vectors[0]) == {0.0}
