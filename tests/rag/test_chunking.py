"""Texts in chunks: of counted tokens, along what must not be torn, each where it says it is."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brolly.engines.documents.text import Text
from brolly.engines.embedding import LocalModel
from brolly.rag.chunk import Chunk, chunks_of

MODEL = LocalModel()
PAGE = """# Handbook

Welcome to all.

## Shipping

Parcels leave on Monday. They arrive by Friday. Nobody works on Sunday.

### Abroad

Customs take a week.

## Prices

| item | price |
| --- | --- |
"""


def cut(content: str, size: int = 100, overlap: int = 0, form: str = "markdown", pages: tuple = ()) -> list[Chunk]:
    text = Text(content, form, "md", pages)  # type: ignore[arg-type]
    return chunks_of(text, size, overlap, MODEL.spans_now)


def sentences(count: int) -> str:
    return " ".join(f"Sentence {n} is about matter {n}." for n in range(count))


def test_sections_stay_together_and_know_their_headings() -> None:
    body = "\n\n".join(f"## Part {n}\n\n{sentences(6)}" for n in range(3))
    found = cut(f"# Book\n\n{body}\n")
    assert [chunk.heading for chunk in found] == ["Book > Part 0", "Book > Part 1", "Book > Part 2"]
    assert all(chunk.content.count("## Part") == 1 for chunk in found)


def test_a_heading_goes_with_what_it_is_above() -> None:
    found = cut(sentences(9) + "\n\n## Next\n\n" + sentences(9))
    assert not any(chunk.content.rstrip().endswith("## Next") for chunk in found)


def test_rows_are_whole_and_tables_keep_their_header() -> None:
    rows = "".join(f"| thing number {n} | {n} |\n" for n in range(60))
    found = cut(PAGE + rows)
    assert len(found) > 3
    for chunk in found:
        for line in chunk.content.splitlines():
            assert not line.startswith("|") or re.fullmatch(r"\|.*\|", line), line
    later = next(chunk for chunk in found if "thing number 59" in chunk.content)
    assert later.content.startswith("| item | price |\n| --- | --- |\n| thing")
    assert later.heading == "Handbook > Prices"
    seen = [n for chunk in found for n in re.findall(r"thing number (\d+)", chunk.content)]
    assert seen == [str(n) for n in range(60)]


def test_code_is_torn_only_where_it_must_be_and_by_lines() -> None:
    short = "```python\n# not a heading\nprint(1)\n\nprint(2)\n```"
    found = cut(f"{sentences(7)}\n\n{short}\n\n{sentences(7)}")
    assert any(short in chunk.content for chunk in found)
    assert not any("not a heading" in chunk.heading for chunk in found)
    long = "```\n" + "".join(f"call_number({n})\n" for n in range(100)) + "```"
    for chunk in cut(long):
        assert all(re.fullmatch(r"```|call_number\(\d+\)", line) for line in chunk.content.splitlines())


def test_neighbours_share_whole_sentences() -> None:
    found = cut(sentences(60), overlap=30, form="plain")
    for before, after in itertools.pairwise(found):
        shared = before.content[after.start - before.start :]
        assert 0 < len(MODEL.spans_now(shared)) <= 32
        assert shared.startswith("Sentence")
        assert after.content.startswith(shared)


def test_pages_are_told() -> None:
    first, second = sentences(12), sentences(12)
    found = cut(first + "\n\n" + second, form="plain", pages=((0, 1), (len(first) + 2, 4)))
    assert found[0].page == 1
    assert found[-1].page == 4


@pytest.mark.parametrize(
    "text", ["word " * 3000, "x" * 5000, "\u5929" * 2000, "a\n" * 3000, "| a | " + "b " * 900 + "|"]
)
def test_what_has_no_seams_is_torn_at_the_size(text: str) -> None:
    found = cut(text, overlap=20)
    assert len(found) > 1
    assert max(chunk.tokens for chunk in found) <= 100


BLOCKS = st.lists(
    st.sampled_from([
        "# A", "## B b", "#### Deep", "Plain words here.", "Two. Sentences!",
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |",
        "```\ncode()\n```", "- item\n- other", sentences(9),
        "```\nnever closed", "\u00dc\u00df \U0001f600 \u6f22\u5b57\u3002",
        "| lonely |", " " * 9, "word" * 60,
    ]),
    max_size=25,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.sampled_from(["\n\n", "\n"]), st.sampled_from([0, 30]), st.sampled_from(["markdown", "plain"]))
def test_nothing_is_lost_moved_or_too_long(blocks: list[str], joint: str, overlap: int, form: str) -> None:
    text = joint.join(blocks)
    found = cut(text, overlap=overlap, form=form)
    covered = bytearray(len(text))
    for chunk in found:
        assert chunk.tokens <= 100
        assert chunk.content.endswith(text[chunk.start : chunk.end])
        assert chunk.content.strip()
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    lost = "".join(char for char, seen in zip(text, covered, strict=True) if not seen)
    assert not lost.strip(), lost
    assert [chunk.start for chunk in found] == sorted(chunk.start for chunk in found)
