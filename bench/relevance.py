"""Questions about our own pages, with the places that answer them, and how well a search finds these.

The questions were written by hand as somebody would ask who has not read the pages; whoever adds one should not look
at the page's words first. ``questions.tsv`` has one a line: the question, a tab, and ``page > heading`` of each place
that answers it, separated by `` | ``. A chunk is right when that heading is among those it stands under.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from brolly.docs.topics import pages as served

_ROOT = Path(__file__).resolve().parent.parent
_BESIDE = {"README": "README.md", "postgrest": "docs/postgrest.md", "benchmarks": "docs/benchmarks.md"}


@dataclass(frozen=True)
class Place:
    """Where a text stands: the page, and the headings above it."""

    page: str
    headings: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked, and the (page, heading) that answer it."""

    text: str
    answers: tuple[tuple[str, str], ...]

    def answered_by(self, place: Place) -> bool:
        """Whether a text at that place is a right answer."""
        return any(place.page == page and heading in place.headings for page, heading in self.answers)


@dataclass(frozen=True)
class Quality:
    """``recall`` is the share of questions with a right place among the first five, ``reciprocal_rank`` the mean of
    1 / the first right place (0 beyond the tenth), ``first`` the share whose first place is right."""

    recall: float
    reciprocal_rank: float
    first: float
    missed: tuple[str, ...]


@cache
def pages() -> Mapping[str, str]:
    """What the questions are about: the pages that butterbase_docs serves, README.md and docs/."""
    return {**served(), **{name: (_ROOT / path).read_text("utf-8") for name, path in _BESIDE.items()}}


@cache
def questions() -> tuple[Question, ...]:
    """All questions."""
    lines = (Path(__file__).parent / "questions.tsv").read_text("utf-8").splitlines()
    return tuple(_question(line) for line in lines if line and not line.startswith("#"))


def questions_on(names: Sequence[str] | Mapping[str, str]) -> tuple[Question, ...]:
    """Those that one of these pages answers, with the answers there alone."""
    kept = [Question(each.text, tuple(a for a in each.answers if a[0] in names)) for each in questions()]
    return tuple(each for each in kept if each.answers)


def _question(line: str) -> Question:
    text, places = line.split("\t")
    answers = [place.strip().split(" > ", 1) for place in places.split(" | ")]
    return Question(text, tuple((page, heading) for page, heading in answers))


def quality(asked: Sequence[Question], found: Sequence[Sequence[Place]]) -> Quality:
    """How good these results are, question by question, best first."""
    ranks = [
        next((n for n, place in enumerate(places[:10], 1) if question.answered_by(place)), 0)
        for question, places in zip(asked, found, strict=True)
    ]
    total = len(ranks)
    return Quality(
        sum(0 < rank <= 5 for rank in ranks) / total,
        sum(1 / rank for rank in ranks if rank) / total,
        sum(rank == 1 for rank in ranks) / total,
        tuple(question.text for question, rank in zip(asked, ranks, strict=True) if not 0 < rank <= 5),
    )
