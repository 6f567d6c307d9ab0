"""The REST grammar against texts of every kind: read or refused, and never part of the SQL."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brolly.core.errors import AppError
from brolly.data import cursor, query
from brolly.data.grammar import Field, parse_field, parse_filter, parse_group, parse_order
from brolly.data.plan import ReadPlan, plan_read
from brolly.data.query_string import Preferences, parse_prefer, parse_query
from brolly.data.request import Filter, FilterSyntaxError, Group, Item
from brolly.data.selection import parse_selection
from brolly.pg.catalog import Column, ForeignKey, Key, Snapshot, Table


def column(name: str, kind: str, oid: int, category: str, element: int = 0) -> Column:
    return Column(name, kind, oid, oid, category, element, name != "id")


COLUMNS = (
    column("id", "bigint", 20, "N"),
    column("title", "text", 25, "S"),
    column("doc", "jsonb", 3802, "U"),
    column("raw", "json", 114, "U"),
    column("tags", "text[]", 1009, "A", 25),
    column("at", "timestamp with time zone", 1184, "D"),
    column("up", "bigint", 20, "N"),
)
NOTES = Table(
    "notes",
    {c.name: c for c in COLUMNS},
    primary=Key("notes_pkey", ("id",)),
    foreign_keys=(ForeignKey("up_fk", ("up",), "notes", ("id",)),),
)
SNAPSHOT = Snapshot({"notes": NOTES})


def test_fields() -> None:
    assert parse_field("a b") == Field("a b")
    assert parse_field("doc->a->0->>x") == Field("doc", ("a", "0", "x"), True)
    assert parse_field('doc->"a.b"->-1') == Field("doc", ("a.b", "-1"))
    assert parse_field('"a\\"b"') == Field('a"b')
    for wrong in ("", "a.b", "->x", "a->", "a->>b->c", '"a', "a\0"):
        with pytest.raises(FilterSyntaxError):
            parse_field(wrong)


def test_filters_and_groups() -> None:
    assert parse_filter(Field("a"), "not.like(any).{x,y}") == Filter("a", "like", "{x,y}", True, quantifier="any")
    assert parse_filter(Field("a"), "wfts(german).x") == Filter("a", "wfts", "x", language="german")
    group = parse_group("not.or", '(a.eq.1,and(b.not.in.(1,"x)"),c.cs.{1,2}),d.eq."y,z")')
    inner = Group("and", (Filter("b", "in", ("1", "x)"), True), Filter("c", "cs", "{1,2}")))
    assert group == Group("or", (Filter("a", "eq", "1"), inner, Filter("d", "eq", "y,z")), True)
    assert parse_order("a,doc->>b.desc.nullslast")[1].path == ("b",)


def test_preferences() -> None:
    assert parse_prefer("count=exact, return=minimal") == Preferences("exact", "minimal", None)
    assert parse_prefer('Return="representation"; x, resolution=what') == Preferences(returning="representation")


def test_selections() -> None:
    (first, second) = parse_selection("n:doc->a->>b::int,sum:id::text.max()::text", 5)
    assert first == Item("doc", ("a", "b"), True, "n", "integer")
    assert second == Item("id", alias="sum", cast="text", aggregate="max", result_cast="text")
    assert parse_selection("count()", 5) == (Item("", aggregate="count"),)


PIECES = st.sampled_from(
    [
        *(
            "id",
            "title",
            "doc",
            "raw",
            "tags",
            "at",
            "up",
            "notes",
            "*",
            "count()",
            "id.sum()",
            "up(",
            "notes!up(",
            "...",
        ),
        *(
            "(",
            ")",
            ",",
            ".",
            ":",
            "::",
            "!",
            "!inner",
            '"',
            "\\",
            "{",
            "}",
            "->",
            "->>",
            "text",
            "and",
            "or",
            "not",
            "0",
        ),
        *(
            "eq",
            "in",
            "is",
            "null",
            "like",
            "fts",
            "cs",
            "ov",
            "any",
            "all",
            "'",
            ";",
            "--",
            "$1",
            "\n",
            " ",
            "é",
            "select",
        ),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=40))
NAMES = st.one_of(st.sampled_from(["select", "order", "or", "and", "not.or", "id", "doc->a", "limit", "cursor"]), TEXTS)
SAFE = re.compile(r"(?:[\w\s().,*$:;<>=|~@&#+\[\]%-]|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")*")


def planned(pairs: list[tuple[str, str]]) -> ReadPlan | None:
    """The plan, or None when the request is refused, which is the only other thing that may happen."""
    with suppress(AppError):
        asked = parse_query("notes", pairs)
        plan = plan_read(asked.request, SNAPSHOT)
        return replace(plan, after=cursor.read(plan, asked.cursor)) if asked.cursor else plan
    return None


@given(st.lists(st.tuples(NAMES, TEXTS), max_size=5))
def test_whatever_is_sent_is_planned_or_refused(pairs: list[tuple[str, str]]) -> None:
    plan = planned(pairs)
    if plan is None:
        return
    built = query.page(plan, 1000, keys=cursor.has_cursor(plan), total=True)
    assert SAFE.fullmatch(built.text), built.text
    assert built.text.count("'") % 2 == 0
    numbers = {int(n) for n in re.findall(r"\$(\d+)", re.sub(r'"(?:[^"]|"")*"', "", built.text))}
    assert numbers == set(range(1, len(built.args) + 1))


@given(st.text(max_size=30), st.text(max_size=30))
def test_values_and_keys_stay_out_of_the_statement(value: str, key: str) -> None:
    def text(value: str, key: str) -> Any:
        quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
        asked = parse_query("notes", [("title", f"eq.{value}"), (f"doc->>{quoted}", f"neq.{value}")])
        return None if asked.problems else query.page(plan_read(asked.request, SNAPSHOT), 9, keys=True, total=True).text

    found = text(value, key)
    assert found is None or found == text("x", "y")
