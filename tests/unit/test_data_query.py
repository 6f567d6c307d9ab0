"""The SQL of plans: names quoted, values bound."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brolly.data import query
from brolly.data.plan import plan_read
from brolly.data.request import InsertRequest, Item, ReadRequest, parse_read
from brolly.data.service import conditions_of
from brolly.data.values import plan_insert
from brolly.pg.catalog import Column, Snapshot, Table

HOSTILE = 'a"; drop table t; --'


def column(name: str, kind: str = "text", oid: int = 25, category: str = "S", element: int = 0) -> Column:
    return Column(name, kind, oid, oid, category, element, True)


def snapshot(*columns: Column, table: str = "t") -> Snapshot:
    return Snapshot({table: Table(table, {c.name: c for c in columns})})


PLAIN = snapshot(
    column("id", "bigint", 20, "N"),
    column("title"),
    column("at", "timestamp with time zone", 1184, "D"),
    column("uid", "uuid", 2950, "U"),
    column("number", "integer", 23, "N"),
    column("ids", "bigint[]", 1016, "A", 20),
)


def statement(filters: dict[str, str], **more: Any) -> query.Statement:
    return query.read(plan_read(parse_read("t", filters=filters.items(), **more), PLAIN), 1000)


@pytest.mark.parametrize(
    ("filters", "sql", "value"),
    [
        ({"title": "eq.x"}, 't."title" = $1::text', "x"),
        ({"uid": "neq.x"}, 't."uid" <> $1::text::uuid', "x"),
        ({"id": "gte.5"}, 't."id" >= $1::text::bigint', "5"),
        ({"id": "in.(1,2)"}, 't."id" = any ($1::text[]::bigint[])', ["1", "2"]),
        ({"title": "not.ilike.%x%"}, 'not (t."title" ilike $1::text)', "%x%"),
        ({"title": "fts.x y"}, "to_tsvector('english', t.\"title\") @@ plainto_tsquery('english', $1::text)", "x y"),
    ],
)
def test_a_filter_compares_with_a_bound_value(filters: dict[str, str], sql: str, value: Any) -> None:
    built = statement(filters)
    assert f"where {sql} limit" in built.text
    assert built.args[0] == value


def test_is_binds_nothing() -> None:
    assert 'where not (t."title" is null) limit' in statement({"title": "not.is.null"}).text


def test_only_types_that_need_it_are_converted() -> None:
    text = statement({}).text
    for plain in ('t."title" as "title"', 't."uid" as "uid"', 't."number" as "number"'):
        assert plain in text
    assert 't."id"::text as "id"' in text
    assert 't."ids"::text[] as "ids"' in text
    assert "to_char(t.\"at\" at time zone 'UTC'" in text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_a_value_never_reaches_the_text(value: str) -> None:
    built = statement({"title": f"eq.{value}", "uid": f"lt.{value}"})
    assert built.text == statement({"title": "eq.x", "uid": "lt.x"}).text
    assert built.args[:2] == (value, value)


def test_the_statement_depends_on_the_form_alone() -> None:
    assert statement({}, limit=7, offset=5).text == statement({}, limit=7, offset=1000).text
    assert statement({"id": "in.(1)"}).text == statement({"id": "in.(1,2,3)"}).text


names = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)


@given(table=names, name=names)
def test_names_are_always_quoted(table: str, name: str) -> None:
    shot = snapshot(column(name), table=table)
    if table.startswith("_"):
        return
    plan = plan_read(ReadRequest(table, select=(Item(name),)), shot)
    quoted = {part: '"' + part.replace('"', '""') + '"' for part in (table, name)}
    (row_plan,) = plan_insert(InsertRequest(table, ({name: "x"},)), shot)
    for text in (query.read(plan, 9).text, query.measure(plan).text, query.insert(row_plan).text):
        rest = text.replace(quoted[table], "").replace(quoted[name], "")
        assert re.fullmatch(r"[\w\s().,*$:;'<>=|\"%-]*", rest)
        assert f"public.{quoted[table]}" in text


def test_a_hostile_name_stays_a_name() -> None:
    shot = snapshot(column(HOSTILE), table=HOSTILE)
    text = query.read(plan_read(ReadRequest(HOSTILE), shot), 9).text
    assert 'from public."a""; drop table t; --" t limit' in text


def test_an_insert_binds_all_rows_in_one_value() -> None:
    (plan,) = plan_insert(InsertRequest("t", ({"title": "a", "id": 1}, {"title": "b", "id": 2})), PLAIN)
    built = query.insert(plan)
    assert built.args == ('[{"title":"a","id":1},{"title":"b","id":2}]',)
    assert 'v("id" bigint, "title" text)' in built.text
    assert "returning" not in query.insert(plan, returning=False).text


def test_probes_cast_as_the_statement_does() -> None:
    plan = plan_read(parse_read("t", filters={"uid": "eq.x", "id": "in.(1)", "title": "eq.x"}.items()), PLAIN)
    texts = [p and p.text for p in map(query.probe_condition, conditions_of(plan.conditions))]
    assert texts == ["select ($1::text::uuid) is null", "select ($1::text[]::bigint[]) is null", None]
