"""From a document and the tables as they are to steps, without a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pytest

from brolly.core.reserved import ROUTE_WORDS
from brolly.pg.catalog import Check, Column, ForeignKey, Index, Key, Snapshot, Table
from brolly.schema.description import describe
from brolly.schema.diff import make_plan
from brolly.schema.document import parse_document
from brolly.schema.outcome import outcomes, review
from brolly.schema.plan import Plan
from brolly.schema.statements import fit, quote

OIDS = {"integer": 23, "text": 25, "uuid": 2950}


def column(name: str, kind: str = "integer", **rest: Any) -> Column:
    return Column(name, kind, OIDS.get(kind, 0), OIDS.get(kind, 0), "N", 0, rest.pop("nullable", True), **rest)


def table(name: str, columns: Sequence[Column], **rest: Any) -> Table:
    return Table(name, MappingProxyType({c.name: c for c in columns}), **rest)


def snapshot(*tables: Table) -> Snapshot:
    return Snapshot(MappingProxyType({t.name: t for t in tables}))


def plan(document: Any, *tables: Table) -> Plan:
    now = snapshot(*tables)
    parsed = parse_document(document)
    assert not review(parsed, now, outcomes(parsed, now))
    return make_plan(parsed, now, {})


def sql(document: Any, *tables: Table) -> list[str]:
    return [re.sub(r"\s+", " ", step.sql) for step in plan(document, *tables).steps]


A = table(
    "a",
    [column("id", nullable=False), column("n", default="1"), column("s", "text")],
    primary=Key("a_pkey", ("id",)),
    uniques=(Key("a_s_key", ("s",)),),
    checks=(Check("ok", "(n > 0)", ("n",)),),
    indexes=(
        Index("a_pkey", ("id",), ("int4_ops",), True, "btree", True, "", "a_pkey"),
        Index("a_n", ("n",), ("int4_ops",), True, "btree", False, "CREATE INDEX a_n ON public.a USING btree (n)"),
    ),
)
B = table(
    "b", [column("a"), column("s", "text")], foreign_keys=(ForeignKey("b_a_fkey", ("a",), "a", ("id",), "CASCADE"),)
)


def test_what_is_read_back_changes_nothing() -> None:
    assert sql(describe(snapshot(A, B)), A, B) == []


def test_new_tables_stand_in_the_order_of_their_references() -> None:
    tables = {
        "c": {"columns": {"b": {"type": "int", "references": "b.id"}}},
        "b": {"columns": {"id": {"type": "int", "primaryKey": True}, "a": {"type": "int", "references": "a.id"}}},
        "a": {"columns": {"id": {"type": "int", "primaryKey": True}}},
    }
    assert [s.description for s in plan({"tables": tables}).steps] == [
        "Create table a",
        "Create table b",
        "Create table c",
    ]


def test_a_cycle_is_closed_when_all_tables_are_there() -> None:
    tables = {
        "a": {"columns": {"id": {"type": "int", "primaryKey": True}, "b": {"type": "int", "references": "b.id"}}},
        "b": {"columns": {"id": {"type": "int", "primaryKey": True}, "a": {"type": "int", "references": "a.id"}}},
    }
    first, second, third = sql({"tables": tables})
    assert first.startswith('create table "b"')
    assert "references" not in first
    assert 'references "b" ("id")' in second
    assert third == 'alter table "b" add constraint "fk_b_a" foreign key ("a") references "a" ("id")'


def test_one_change_of_each_kind() -> None:
    document = {
        "tables": {
            "a": {
                "columns": {"n": {"type": "bigint", "nullable": False}, "s": {"type": "text", "default": "''"}},
                "checks": {"ok": None, "new": "n < 5"},
                "indexes": {"a_n": {"columns": ["n"], "unique": True}},
            },
            "b": {"columns": {"a": {"type": "int", "references": "a.id"}}, "_dropColumns": ["s"]},
        }
    }
    assert sql(document, A, B) == [
        'alter table "b" drop constraint "b_a_fkey"',
        'alter table "a" drop constraint "ok"',
        'alter table "a" drop constraint "a_s_key"',
        'drop index "a_n"',
        'alter table "b" drop column "s"',
        'alter table "a" alter column "n" drop default, alter column "n" type bigint',
        'alter table "a" alter column "n" set not null',
        'alter table "a" alter column "s" set default \'\'',
        'alter table "a" add constraint "new" check (n < 5)',
        'create unique index "a_n" on "a" using btree ("n")',
        'alter table "b" add constraint "fk_b_a" foreign key ("a") references "a" ("id")',
    ]


def test_what_goes_with_a_dropped_column_is_said() -> None:
    steps = plan({"tables": {"a": {"_dropColumns": ["id", "n"]}}}, A, B).steps
    assert [s.description for s in steps] == [
        "Drop the reference from b (a) to a (id), which goes away",
        "Drop check ok of a, which reads a dropped column",
        "Drop the primary key of a (id)",
        "Drop index a_n of a",
        "Drop column a.id with its values",
        "Drop column a.n with its values",
    ]
    assert [s.destructive for s in steps] == [False] * 4 + [True] * 2


def test_a_key_in_use_is_blocked() -> None:
    steps = plan({"tables": {"a": {"primaryKey": []}}}, A, B).steps
    assert [s.block.reason for s in steps if s.block] == ["b (a) refer to a (id)"]
    free = plan({"tables": {"a": {"primaryKey": []}, "b": {"columns": {"a": {"type": "int"}}}}}, A, B).steps
    assert not any(s.block for s in free)


def test_the_way_back_is_in_reverse() -> None:
    down = plan({"tables": {"a": {"columns": {"new": {"type": "int"}}}}, "_drop": ["b"]}, A, B).sql_down
    assert down.splitlines()[0] == 'alter table "a" drop column "new";'
    assert 'create table "b"' in down
    assert 'add constraint "b_a_fkey" foreign key ("a") references "a" ("id") on delete cascade' in down


@pytest.mark.parametrize("name", ["a" * 63, "a" * 80])
def test_names_that_we_give_fit_and_are_free(name: str) -> None:
    taken: set[str] = set()
    for _ in range(3):
        found = fit(name, taken)
        assert len(found) <= 63
        assert found not in taken
        taken.add(found)


def test_a_name_is_quoted() -> None:
    assert quote('a"b') == '"a""b"'


def test_words_of_routes_cannot_be_tables() -> None:
    assert {"auth", "schema", "rag", "fn"} <= ROUTE_WORDS
