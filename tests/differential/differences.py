"""The one list of what differs from PostgREST on purpose; docs/postgrest.md shows the same to readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.differential.asking import OBJECT, Asked

Applies = Callable[[Asked, httpx.Response, httpx.Response], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, why, and whether a pair of answers shows it. Without ``applies``, the comparison itself takes
    both forms for one (``comparing.plain``), or no generated request shows it."""

    what: str
    reason: str
    applies: Applies | None = None


def code(answer: httpx.Response) -> str:
    """The code by which PostgREST's clients know the error."""
    if answer.is_success or not answer.content:
        return ""
    found = json.loads(answer.content)
    inside = found.get("error")
    if isinstance(inside, dict):
        return str((inside.get("details") or {}).get("pg_code", inside["code"]))
    return str(found.get("code", ""))


def _value_unread(asked: Asked, ours: httpx.Response, theirs: httpx.Response) -> bool:
    refused, answered = (ours, theirs) if theirs.is_success else (theirs, ours)
    if ours.is_success == theirs.is_success:
        return False
    untold = asked.method == "HEAD" and not refused.content
    if not untold and not code(refused).startswith("22") and code(refused) != "42704":
        return False
    empty = answered.headers.get("content-range", "").startswith("*/") or answered.status_code == 416
    return empty or any("::" in value or "()" in value for _, value in asked.pairs)


def _plain_words(asked: Asked, ours: httpx.Response, theirs: httpx.Response) -> bool:
    return ours.is_success and code(theirs) == "42601" and "fts" in str(asked)


def _status_206(_asked: Asked, ours: httpx.Response, theirs: httpx.Response) -> bool:
    return {ours.status_code, theirs.status_code} == {200, 206}


def _past_the_end(asked: Asked, ours: httpx.Response, theirs: httpx.Response) -> bool:
    if theirs.status_code != 416:
        return False
    empty = ours.status_code == 200 and ours.headers.get("content-range", "").startswith("*/")
    # limit=0 with an offset: it refuses before it looks at anything else.
    return empty or ("limit", "0") in asked.pairs or asked.headers.get("Accept") == OBJECT


DIFFERENCES = (
    Difference("`bigint` and `numeric` are texts", "A JSON number loses digits in JavaScript; so has it the contract."),
    Difference("`timestamptz` is UTC with milliseconds", "The form of JavaScript's own dates; so has it the contract."),
    Difference("related tables' keys stand in the order of `select`", "PostgREST sorts them, as "
        "`jsonb` does."),
    Difference(
        "206 for requests with `Range` alone, 200 otherwise",
        "PostgREST answers 206 whenever a counted page is not the whole; RFC 9110 has it for `Range` requests.",
        _status_206,
    ),
    Difference(
        "a page past the end is empty, with 200",
        "PostgREST answers 416 where it counted; pages of a list that shrinks must not fail.",
        _past_the_end,
    ),
    Difference(
        "a value of the wrong type may go unnoticed, or not, where no row is compared with it or shown",
        "Which comparison Postgres makes first, and whether it makes one at all, depends on its plan.",
        _value_unread,
    ),
    Difference(
        "`fts` takes plain words too",
        "`fts.fat cat` means both words, as in the contract; joined by operators of `to_tsquery` they mean what "
        "PostgREST makes of them, which refuses other texts.",
        _plain_words,
    ),
    Difference(
        "an object path of `->0` in a scalar is null",
        "`#>` reads the path; `->0` takes a scalar for an array of one.",
    ),
    Difference("CSV: `true`, JSON and ISO times, and a line of names even without rows", "The same values as in JSON."),
    Difference(
        "the most rows of a page are 1,000, of nested arrays fewer, as `X-Embedded-Limits` says",
        "One request cannot fill the memory.",
    ),
    Difference("`limit` of an embedded table does not decide whether `!inner` or `is.null` finds it", "Rows that are "
        "there are there, whatever is shown of them."),
    Difference("a selection of nothing but empty embeddings answers all columns", "`{}` for each row tells nothing."),
    Difference(
        "a table without row-level security is empty for anonymous callers",
        "They hold no privilege on it; so has it the contract. PostgREST answers 401.",
    ),
    Difference("errors of operators that do not exist, and of ambiguous embeddings, have status 400", "PostgREST's 404 "
        "and 300 say that something is not there, or elsewhere."),
    Difference("a path into a column that is no JSON is an error", "PostgREST answers null for every row."),
    Difference("negative `offset`, `select` given twice: 400", "PostgREST passes over one of them in silence."),
    Difference("an empty value, `id=`, counts as absent where rows are read", "So has it the contract."),
    Difference("`isdistinct(any)`, `neq(all)`, quantifiers inside groups, `alias:` before `...`, order by a related "
        "column that is not answered", "PostgREST refuses them; we see no reason to."),
    Difference("`in.(\"\")` finds the empty text", "PostgREST takes it for the empty list, as `in.()`."),
    Difference("`in` does not go with arrays", "`eq.{a,b}` says the same; a list of lists cannot be told from a list."),
)  # fmt: skip
WRITES = (
    Difference(
        "`POST`, `PATCH` and `DELETE` without `Prefer: return` answer rows, or `{\"deleted\": true}`",
        "So has it the contract. PostgREST's own clients, known by X-Client-Info, get nothing, as there.",
    ),
    Difference("without a filter, `PATCH` and `DELETE` are refused", "A forgotten filter would reach every row."),
    Difference("columns that are left out take their defaults in arrays too", "`missing=default` is always on."),
    Difference("unknown columns in a body are refused with 400", "So in PostgREST, which has code PGRST204."),
    Difference("what breaks a unique or foreign key has status 400", "So has it the contract; PostgREST answers 409."),
    Difference("`Content-Range` of `PATCH` and `DELETE` always holds the number, without a range", "It costs nothing, "
        "and tells whether a filter found anything."),
    Difference("an upsert of rows with different columns leaves alone what a row does not name", "PostgREST gives it "
        "the column's default, which loses what was stored."),
    Difference("an upsert that only changes rows has status 201, one that passes all over 200", "201 says that "
        "rows were stored; PostgREST says 201 for those that it passes over, and 200 for those it changes."),
    Difference("`PATCH` and `DELETE` with `or` on columns that `select` leaves out work", "PostgREST filters what it "
        "answers a second time, and then misses the column."),
    Difference("`Location` is the row's own address", "PostgREST gives the list with a filter by key."),
    Difference("no `PUT`", "`POST` with `resolution=merge-duplicates` does the same."),
)  # fmt: skip
