"""Ranking the sections of a few pages for a question: by its words (Okapi BM25) and by its meaning, fused.

bench/relevance.py measures it: of 87 questions that were not worded after the pages, 34 found their place among the
first five by words alone, 41 when pages were cut at every heading, 55 when meaning joined in.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from operator import mul

from brolly.docs.topics import Section, sections
from brolly.engines.embedding import LocalModel

K1, B = 1.2, 0.4
HEADING_WEIGHT = 2
PAGE_WEIGHT = 1
RANK_OFFSET = 5
"""k of reciprocal rank fusion."""
MEANING_SHARE = 1.5
"""What a place by meaning counts, a place by words counting 1."""
NEAR = 0.2
"""Sections that share no word with the question and are further off say nothing about it."""

_WORD = re.compile(r"[a-z0-9_]+")
_STOP = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "how", "i", "in", "is"),
        *("it", "my", "of", "on", "or", "that", "the", "this", "to", "what", "when", "which", "why", "with", "you"),
    )
)


def terms(text: str) -> list[str]:
    """The words in a form in which plural and singular, ``row_level`` and ``row level`` meet."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        parts = [p for p in word.split("_") if p]
        if len(parts) > 1:
            found.append(word.strip("_"))
        found += [_stem(part) for part in parts if part not in _STOP]
    return found


def _stem(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending) + instead
    return word


@cache
def _index() -> tuple[list[Counter[str]], Counter[str], float]:
    bags: list[Counter[str]] = []
    for section in sections():
        bag = Counter(terms(section.text))
        for word in terms(section.place):
            bag[word] += HEADING_WEIGHT
        for word in terms(section.page):
            bag[word] += PAGE_WEIGHT
        bags.append(bag)
    spread = Counter(word for bag in bags for word in bag)
    average = sum(bag.total() for bag in bags) / max(len(bags), 1)
    return bags, spread, average


async def rank(model: LocalModel, query: str, limit: int) -> Sequence[Section]:
    """The sections that fit the question best; none where no word occurs and nothing is near in meaning."""
    scores: Counter[int] = Counter()
    for share, numbers in ((1.0, by_words(query)), (MEANING_SHARE, await by_meaning(model, query))):
        for place, number in enumerate(numbers, 1):
            scores[number] += share / (RANK_OFFSET + place)  # pyright: ignore[reportArgumentType]
    return [sections()[number] for number, _ in scores.most_common(limit)]


def by_words(query: str) -> list[int]:
    """The numbers of the sections that have a word of the query, the best first."""
    bags, spread, average = _index()
    words = set(terms(query))
    scored: list[tuple[float, int]] = []
    for number, bag in enumerate(bags):
        score = 0.0
        for word in words & bag.keys():
            rarity = math.log(1 + (len(bags) - spread[word] + 0.5) / (spread[word] + 0.5))
            often = bag[word]
            score += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * bag.total() / average))
        if score:
            scored.append((-score, number))
    return [number for _, number in sorted(scored)]


_meanings: list[list[float]] = []


async def by_meaning(model: LocalModel, query: str) -> list[int]:
    """The numbers of the sections that are near the query, the nearest first."""
    if not _meanings:
        _meanings[:] = (await model.embed([f"{each.place}\n{each.text}" for each in sections()])).vectors
    wanted = (await model.embed([query])).vectors[0]
    near = [(-sum(map(mul, wanted, meaning)), number) for number, meaning in enumerate(_meanings)]
    return [number for closeness, number in sorted(near) if closeness < -NEAR]


def snippet(section: Section, query: str, length: int) -> str:
    """The stretch of the section's text in which the words come thickest, on one line."""
    text = " ".join(section.text.replace("```json", " ").replace("```", " ").split())
    wanted = set(terms(query))
    starts = [0, *(m.start() + 1 for m in re.finditer(r" ", text))]
    best = max(starts, key=lambda at: (len(wanted & set(terms(text[at : at + length]))), -at), default=0)
    cut = text[best : best + length]
    if best + length < len(text):
        cut = cut.rsplit(" ", 1)[0]
    return ("…" if best else "") + cut + ("…" if best + len(cut) < len(text) else "")
