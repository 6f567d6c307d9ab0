"""Generated read requests to this server and to PostgREST over the same database: the same answers, but for a list.

By hand, with more: ``DIFFERENTIAL_SEEDS=1,2,3 DIFFERENTIAL_REQUESTS=5000 pytest tests/differential/test_reads.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from tests.differential.asking import Asked, Maker, wrong
from tests.differential.comparing import body
from tests.differential.conftest import Pair
from tests.differential.differences import DIFFERENCES, WRITES

SEEDS = [int(seed) for seed in os.environ.get("DIFFERENTIAL_SEEDS", "1,2").split(",")]
REQUESTS = int(os.environ.get("DIFFERENTIAL_REQUESTS", "250"))


def verdict(asked: Asked, ours: httpx.Response, theirs: httpx.Response) -> str:
    """What differs that is on no list, or nothing."""
    if ours.status_code >= 500:
        return "ours fails"
    explained = any(d.applies(asked, ours, theirs) for d in DIFFERENCES if d.applies)
    if not (ours.is_success and theirs.is_success):
        return "" if ours.is_success == theirs.is_success or explained else "one of them refuses"
    if ours.status_code != theirs.status_code and not explained:
        return "status"
    if ours.headers.get("content-range") != theirs.headers.get("content-range"):
        return "content-range"
    ordered = frozenset(name for name in asked.has if name == "order" or name.endswith(".order"))
    return "body" if asked.method == "GET" and body(ours, ordered) != body(theirs, ordered) else ""


async def test_generated_reads(pair: Pair) -> None:
    said: list[str] = []
    answered = 0
    for seed in SEEDS:
        maker = Maker(seed)
        for _ in range(REQUESTS):
            asked = maker.request()
            ours, theirs = await pair.answers(asked)
            answered += ours.is_success and theirs.is_success
            if found := verdict(asked, ours, theirs):
                said.append(f"{found}: {asked}\n{_told(ours)}\n{_told(theirs)}")
    assert not said, f"{len(said)} answers differ\n" + "\n".join(said[:20])
    assert answered > len(SEEDS) * REQUESTS / 2, "most requests should be ones that can be answered"


def _told(answer: httpx.Response) -> str:
    return f"  {answer.status_code} {answer.headers.get('content-range')} {answer.text[:400]}"


async def test_requests_that_cannot_be_answered(pair: Pair) -> None:
    for asked, status, other in wrong():
        ours, theirs = await pair.answers(asked)
        assert (ours.status_code, theirs.status_code) == (status, other), (str(asked), ours.text, theirs.text)


def test_the_list_of_differences_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "postgrest.md").read_text("utf-8")
    for one in (*DIFFERENCES, *WRITES):
        assert f"| {one.what} | {one.reason} |" in page, one.what
