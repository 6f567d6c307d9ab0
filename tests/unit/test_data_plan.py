"""What a table allows: names, operators, values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from brolly.core.errors import AppError
from brolly.data.plan import comparison_type, plan_read
from brolly.data.request import InsertRequest, parse_read
from brolly.data.tables import nearest
from brolly.data.values import InsertPlan, plan_insert
from brolly.pg.catalog import Column, Key, Snapshot, Table


def column(name: str, kind: str = "text", oid: int = 25, category: str = "S", **more: Any) -> Column:
    return Column(name, kind, oid, oid, category, more.pop("element", 0), more.pop("nullable", True), **more)


NOTES = Table(
    "notes",
    {
        c.name: c
        for c in (
            column("id", "bigint", 20, "N", nullable=False),
            column("title"),
            column("user_id", "uuid", 2950, "U"),
            column("done", "boolean", 16, "B"),
            column("stars", "integer", 23, "N"),
            column("price", "numeric(10,2)", 1700, "N"),
            column("tags", "text[]", 1009, "A", element=25),
            column("doc", "jsonb", 3802, "U"),
            column("raw", "json", 114, "U"),
            column("words", "tsvector", 3614, "U"),
            column("twice", "integer", 23, "N", generated="stars * 2"),
            column("number", "integer", 23, "N", identity="always"),
        )
    },
    primary=Key("notes_pkey", ("id",)),
)
SNAPSHOT = Snapshot({"notes": NOTES, "nokey": Table("nokey", {"a": column("a")})})


def read(table: str = "notes", filters: dict[str, str] | None = None, **more: Any) -> Any:
    return plan_read(parse_read(table, filters=(filters or {}).items(), **more), SNAPSHOT)


def insert(*rows: dict[str, Any]) -> tuple[InsertPlan, ...]:
    return plan_insert(InsertRequest("notes", rows), SNAPSHOT)


def refused(code: str, run: Any, *args: Any, **more: Any) -> AppError:
    with pytest.raises(AppError) as caught:
        run(*args, **more)
    assert caught.value.code == code, caught.value
    return caught.value


def test_a_table_that_is_missing_names_the_nearest() -> None:
    assert "Did you mean notes?" in refused("VALIDATION_TABLE_NOT_FOUND", read, "note").message
    assert "did you mean" not in refused("VALIDATION_TABLE_NOT_FOUND", read, "zzz").message.lower()
    refused("VALIDATION_RESERVED_TABLE", read, "_ai_migrations")
    hostile = refused("VALIDATION_TABLE_NOT_FOUND", read, 'notes"; drop table notes; --\ud800')
    json.dumps([hostile.message, hostile.details], ensure_ascii=False).encode()


def test_a_column_that_is_missing_names_the_nearest() -> None:
    error = refused("VALIDATION_COLUMN_NOT_FOUND", read, select="titel,id", order="userId.desc", filters={"x": "eq.1"})
    assert "'titel' (did you mean title?)" in error.message
    assert "'userId' (did you mean user_id?)" in error.message
    assert error.details["invalidFilters"] == ["x"]
    refused("VALIDATION_COLUMN_NOT_FOUND", insert, {"titel": 1})
    assert nearest("createdAt", ["created_at"]) == "created_at"
    assert nearest("q", ["created_at"]) is None


@pytest.mark.parametrize(
    "filters",
    [
        {"stars": "like.%1"},
        {"stars": "fts.one"},
        {"stars": "is.true"},
        {"doc": "ilike.x"},
        {"raw": 'eq.{"a":1}'},
        {"raw": "in.(1)"},
        {"tags": "in.({a})"},
    ],
)
def test_an_operator_that_the_type_lacks_is_refused(filters: dict[str, str]) -> None:
    error = refused("VALIDATION_INVALID_SCHEMA", read, filters=filters)
    assert error.details["invalidFilters"][0].startswith(next(iter(filters)))


def test_operators_that_the_type_has() -> None:
    plan = read(filters={"done": "is.true", "raw": "is.null", "words": "fts.a", "title": "fts.a", "tags": "eq.{a}"})
    assert len(plan.conditions) == 5


def test_pages_are_ordered_to_the_last_row() -> None:
    assert [s.column.name for s in read().sorts] == ["id"]
    assert [(s.column.name, s.descending) for s in read(order="title.desc").sorts] == [("title", True), ("id", False)]
    assert [s.column.name for s in read(order="id.desc").sorts] == ["id"]
    assert read("nokey").sorts == ()
    refused("VALIDATION_INVALID_TYPE", read, order="raw")


@pytest.mark.parametrize(
    ("kind", "cast"),
    [
        ("integer", "integer"),
        ("character varying(10)", "character varying"),
        ("character(4)", "bpchar"),
        ("character(4)[]", "bpchar[]"),
        ("numeric(10,-2)", "numeric"),
        ("timestamp(3) with time zone", "timestamp with time zone"),
        ("vector(3)", "vector"),
        ("bit(3)", '"bit"'),
        ("text[]", "text[]"),
        ('"My(1)Type"', '"My(1)Type"'),
    ],
)
def test_a_filter_value_is_not_cut_by_the_type(kind: str, cast: str) -> None:
    assert comparison_type(column("c", kind)) == cast


def test_neighbours_with_the_same_columns_share_a_plan() -> None:
    plans = insert(
        {"title": "a", "stars": 1}, {"stars": None, "title": "b"}, {"title": "c"}, {"title": "d", "stars": 2}
    )
    assert [[c.name for c in p.columns] for p in plans] == [["title", "stars"], ["title"], ["title", "stars"]]
    assert [len(p.rows) for p in plans] == [2, 1, 1]


def test_big_numbers_stay_as_they_are() -> None:
    (plan,) = insert({"id": 9223372036854775807, "price": 0.1, "doc": [12345678901234567890123, 1.5]})
    assert plan.rows == ('{"id":9223372036854775807,"price":0.1,"doc":[12345678901234567890123,1.5]}',)
    assert insert({"price": 123456789012345.0})
    error = refused("VALIDATION_INVALID_INPUT", insert, {"price": 12345678901234567.89})
    assert "send it as a text" in error.message


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("VALIDATION_INVALID_SCHEMA", {}),
        ("VALIDATION_INVALID_SCHEMA", {"twice": 2}),
        ("VALIDATION_INVALID_SCHEMA", {"number": 2}),
        ("VALIDATION_INVALID_TYPE", {"title": {"a": 1}}),
        ("VALIDATION_INVALID_TYPE", {"title": ["a"]}),
        ("VALIDATION_INVALID_TYPE", {"stars": {"a": 1}}),
        ("VALIDATION_INVALID_INPUT", {"title": "a\0b"}),
        ("VALIDATION_INVALID_INPUT", {"title": "\udfff"}),
        ("VALIDATION_INVALID_INPUT", {"doc": {"deep": [{"a\0": 1}]}}),
        ("VALIDATION_INVALID_INPUT", {"doc": [float("nan")]}),
        ("VALIDATION_INVALID_INPUT", {"stars": float("inf")}),
        ("VALIDATION_INVALID_INPUT", {"doc": 10**5000}),
    ],
)
def test_what_a_column_cannot_hold_is_refused(code: str, row: dict[str, Any]) -> None:
    refused(code, insert, row)


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    refused("VALIDATION_INVALID_INPUT", insert, {"doc": value})
