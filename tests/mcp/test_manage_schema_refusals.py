"""What manage_schema refuses: documents that make no sense, and texts that would be more than they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.reserved import ROUTE_WORDS
from brolly.deps import Deps
from brolly.registry import App
from brolly.schema.tool import MANAGE_SCHEMA
from tests.conftest import make_owner

INT = {"type": "int"}


class Refused:
    """``await refused(document)``: the error of ``apply``, after a look that nothing was changed."""

    def __init__(self, deps: Deps, owner: Caller, app: App) -> None:
        self.deps, self.owner, self.app = deps, owner, app

    async def run(self, action: str, **arguments: Any) -> Any:
        return await MANAGE_SCHEMA.run(self.deps, self.owner, action, {"app_id": self.app.id, **arguments})

    async def marks(self) -> list[Any]:
        query = "select relname::text from pg_class where relnamespace = 'public'::regnamespace order by 1"
        async with self.deps.pools.owner(self.app) as conn:
            return [row[0] for row in await conn.fetch(query)]

    async def __call__(self, document: Any) -> AppError:
        before = await self.marks()
        with pytest.raises(AppError) as failed:
            await self.run("apply", schema=document)
        assert await self.marks() == before
        with pytest.raises(AppError) as preview:
            await self.run("dry_run", schema=document)
        assert preview.value.code == failed.value.code
        return failed.value


@asynccontextmanager
async def fresh_app(deps: Deps) -> AsyncIterator[Refused]:
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "refusals", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    yield Refused(deps, owner, app)
    await provision.delete(deps, app)


@pytest.fixture(scope="module")
async def refused(deps: Deps) -> AsyncIterator[Refused]:
    """An app that stays empty: what is refused leaves nothing behind."""
    async with fresh_app(deps) as value:
        yield value


@pytest.fixture(scope="module")
async def with_table(deps: Deps) -> AsyncIterator[Refused]:
    """An app with a table ``t`` of two integers, which stays so."""
    async with fresh_app(deps) as value:
        await value.run("apply", schema=table({"a": INT, "b": INT}))
        yield value


@pytest.fixture
async def own(deps: Deps) -> AsyncIterator[Refused]:
    """An app for one test."""
    async with fresh_app(deps) as value:
        yield value


def table(columns: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"tables": {"t": {"columns": columns, **rest}}}


INJECTIONS = [
    'x"; drop table victim; --',
    "x'; drop table victim; --",
    "x); drop table victim; --",
    "x\0y",
    "",
    " x",
    "X",
    "é",
    "x" * 64,
]


@pytest.mark.parametrize("text", INJECTIONS)
async def test_names_that_are_no_names(refused: Refused, text: str) -> None:
    documents = [
        {"tables": {text: {"columns": {"a": INT}}}},
        table({text: INT}),
        table({"a": INT}, indexes={text: {"columns": ["a"]}}),
        table({"a": INT}, indexes={"i": {"columns": [text]}}),
        table({"a": INT}, checks={text: "a > 0"}),
        table({"a": INT}, primaryKey=[text]),
        table({"a": {"type": "int", "references": {"table": text, "column": "id"}}}),
        table({"a": {"type": "int", "references": f"t.{text}"}}),
        table({"a": INT}, _dropColumns=[text]),
        table({"a": INT}, _dropIndexes=[text]),
        {"_drop": [text]},
    ]
    for document in documents:
        error = await refused(document)
        assert error.code == "VALIDATION_INVALID_SCHEMA"
        assert error.details["problems"]


@pytest.mark.parametrize(
    "text",
    [
        "1); drop table victim; --",
        "1; drop table victim",
        "(select 1)",
        "pg_sleep(10)",
        "set_config('role', 'x', false)",
        "nextval('x')",
        "lo_import('/etc/passwd')",
        "'a' || pg_read_file('x')",
        "E'\\'; drop table victim; --'",
        "$$x$$",
        "'x' -- y",
        "'x' /* y */",
        '"x"',
        "a",
        "version()",
        "current_setting('x')",
        "now() + (select 1)",
        "'a'::regclass",
        "'a'::text; select 1",
        "cast('a' as text)",
        "(((((((((((((((((((((((((((((1)))))))))))))))))))))))))))))",
        "1 +",
        "array[1",
        "coalesce(1, pg_sleep(1))",
    ],
)
async def test_defaults_outside_the_grammar(refused: Refused, text: str) -> None:
    error = await refused(table({"a": {"type": "text", "default": text}}))
    assert error.code == "VALIDATION_INVALID_SCHEMA"
    assert error.details["problems"][0]["path"] == "tables.t.columns.a.default"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a > 0); drop table victim; --", "closes nothing"),
        ("a > 0; drop table victim", "semicolon"),
        ("a > 0 -- x", "comments"),
        ("a > 0) not valid, add check (true", "closes nothing"),
        ("true) no inherit; select (1", "closes nothing"),
        ("a > (select 1)", "subquery"),
        ("a > nope", "does not exist"),
        ("a", "boolean"),
        ("a >", "syntax"),
        ("pg_sleep(a) is null", "pg_sleep"),
        ("set_config('role', 'postgres', false) is null", "set_config"),
        ("\"set_config\"('a', 'b', true) is null", "set_config"),
        ("U&\"\\0073et_config\"('a', 'b', true) is null", "set_config"),
        ("pg_catalog.pg_notify('a', 'b') is null", "pg_notify"),
        ("query_to_xml('select 1', true, true, '') is null", "query_to_xml"),
        ("pg_read_file('/etc/passwd') = ''", "pg_read_file"),
        ("case when a > 0 then pg_terminate_backend(1) end", "pg_terminate_backend"),
        ("count(a) > 0", "aggregate"),
        ("t.a > 0", "without the table's"),
    ],
)
async def test_checks(with_table: Refused, text: str, reason: str) -> None:
    for document in (
        table({"a": INT}, checks={"c": text}),
        {"tables": {"new": {"columns": {"a": INT}, "checks": {"c": text}}}},
    ):
        error = await with_table(document)
        assert error.code == "VALIDATION_INVALID_SCHEMA"
        assert reason in error.details["problems"][0]["message"]
        assert error.details["problems"][0]["path"].endswith("checks.c")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a::text; drop table victim", "semicolon"),
        ("a::text), drop column b, add column c text default ('x'", "closes nothing"),
        ("a, drop column b", "list"),
        ("set_config('a', 'b', true)", "set_config"),
        ("(select 'x')", "subquery"),
        ("nope::text", "does not exist"),
    ],
)
async def test_conversions(with_table: Refused, text: str, reason: str) -> None:
    error = await with_table(table({"a": {"type": "text"}}, _alterType={"a": text}))
    assert reason in error.details["problems"][0]["message"]
    assert error.details["problems"][0]["path"] == "tables.t._alterType.a"


@pytest.mark.parametrize(
    "index",
    [
        {"columns": ["a"], "opclass": "int4_ops; drop table victim"},
        {"columns": ["a"], "opclass": "vector_cosine_ops"},
        {"columns": ["a"], "method": "btree; drop table victim"},
        {"columns": ["a"], "method": "gin", "unique": True},
        {"columns": ["a"], "method": "hnsw"},
        {"columns": ["a", "a"]},
        {"columns": []},
        {"columns": ["a desc"]},
        {"columns": ["lower(a)"]},
        {"columns": ["nope"]},
        {"columns": "a"},
        {"columns": ["a"], "where": "a > 0"},
        {"columns": ["a"], "type": "gin"},
    ],
)
async def test_indexes(refused: Refused, index: dict[str, Any]) -> None:
    error = await refused(table({"a": INT}, indexes={"i": index}))
    assert error.code == "VALIDATION_INVALID_SCHEMA"
    assert error.details["problems"][0]["path"].startswith("tables.t.indexes.i")


@pytest.mark.parametrize(
    "name", ["_secret", "_idempotency_keys", "pg_class", "public", *sorted(w for w in ROUTE_WORDS if w.isalpha())]
)
async def test_reserved_tables(refused: Refused, name: str) -> None:
    error = await refused({"tables": {name: {"columns": {"a": INT}}}})
    assert error.code == "VALIDATION_RESERVED_TABLE"
    if name.startswith("_"):
        assert (await refused({"_drop": [name]})).code == "VALIDATION_RESERVED_TABLE"


async def test_all_problems_at_once(refused: Refused) -> None:
    error = await refused(
        {
            "tables": {
                "_x": {"columns": {"a": INT}},
                "t": {
                    "columns": {
                        "a": {"type": "string"},
                        "b": {"primary": True, "type": "int"},
                        "c": {"type": "text", "default": "draft"},
                        "d": {"type": "serial", "nullable": True},
                    },
                    "_drop": True,
                    "index": {},
                },
            },
            "drop": [],
        }
    )
    found = {p["path"]: p["message"] for p in error.details["problems"]}
    assert found.keys() == {
        "tables._x",
        "tables.t.columns.a.type",
        "tables.t.columns.b.primary",
        "tables.t.columns.c.default",
        "tables.t.columns.d",
        "tables.t._drop",
        "tables.t.index",
        "drop",
    }
    assert "did you mean text?" in found["tables.t.columns.a.type"]
    assert "use primaryKey" in found["tables.t.columns.b.primary"]
    assert "'draft'" in found["tables.t.columns.c.default"]
    assert '"_drop": ["table"]' in found["tables.t._drop"]
    assert "did you mean indexes?" in found["tables.t.index"]
    assert "did you mean _drop?" in found["drop"]


@pytest.mark.parametrize(
    ("columns", "rest", "reason"),
    [
        ({"a": {"type": "int", "references": "nope.id"}}, {}, "no table nope"),
        ({"a": {"type": "int", "references": "t.nope"}}, {}, "no column nope"),
        ({"a": {"type": "int", "references": "t"}}, {}, "table.column"),
        ({"a": {"type": "int", "references": "t.b"}, "b": INT}, {}, '"unique": true'),
        ({"a": {"type": "int", "references": "t.b"}, "b": {"type": "uuid", "unique": True}}, {}, "make both the same"),
        ({"a": {"type": "int", "references": {"table": "t", "column": "a", "onDelete": "EXPLODE"}}}, {}, "must be"),
        ({"a": INT}, {"primaryKey": ["b"]}, "no column b"),
        ({"a": INT}, {"primaryKey": ["a", "a"]}, "twice"),
        (
            {"a": {"type": "int", "primaryKey": True}, "b": {"type": "int", "primaryKey": True}},
            {},
            '"primaryKey": ["a", "b"]',
        ),
        ({"a": {"type": "int", "primaryKey": True, "nullable": True}}, {}, "cannot be nullable"),
        ({"a": INT}, {"_dropColumns": ["a"]}, "described and named"),
        ({"a": INT}, {"_alterType": {"b": "b::int"}}, "not among"),
        ({}, {}, "no columns"),
        ({f"c{n}": INT for n in range(201)}, {}, "200"),
        ({"a": {"type": "serial", "default": "1"}}, {}, "own default"),
        ({"a": {"type": "vector(0)"}}, {}, "1 to 16000"),
        ({"a": {"type": "numeric(5,6)"}}, {}, "scale"),
        ({"a": {"type": "int(11)"}}, {}, "no number"),
        ({"a": {"type": "serial[]"}}, {}, "integer[]"),
        ({"a": {"type": "text; drop table victim"}}, {}, "not a type"),
        ({"a": {"type": 5}}, {}, "must be a text"),
        ({"a": "int"}, {}, "must be an object"),
        ({"a": {"type": "int", "default": "'abc'"}}, {}, "invalid input syntax"),
        ({"a": {"type": "int", "default": {}}}, {}, "single quotes"),
    ],
)
async def test_documents_that_contradict_themselves(
    refused: Refused, columns: dict[str, Any], rest: dict[str, Any], reason: str
) -> None:
    error = await refused(table(columns, **rest))
    assert error.code == "VALIDATION_INVALID_SCHEMA"
    assert reason in error.details["problems"][0]["message"]


async def test_more_tables_than_an_app_may_have(own: Refused) -> None:
    many = {f"t{n}": {"columns": {"a": INT}} for n in range(50)}
    await own.run("apply", schema={"tables": many})
    error = await own({"tables": {"one_more": {"columns": {"a": INT}}}})
    assert error.code == "QUOTA_TABLE_LIMIT"
    assert "51 tables" in error.message
    await own.run("apply", schema={"tables": {"one_more": {"columns": {"a": INT}}}, "_drop": ["t0"]})


@pytest.mark.parametrize(
    "document", [[], "x", 5, {"tables": []}, {"tables": {"t": 5}}, {"tables": {"t": {"columns": []}}}, {"todos": {}}]
)
async def test_what_is_no_document(refused: Refused, document: Any) -> None:
    error = await refused(document)
    assert error.code == "VALIDATION_INVALID_SCHEMA"


async def test_a_name_is_taken(own: Refused) -> None:
    await own.run("apply", schema=table({"a": {"type": "int", "unique": True}}, indexes={"i": {"columns": ["a"]}}))
    other = {"columns": {"a": INT}}
    for index in ("i", "t", "t_a_key"):
        error = await own({"tables": {"u": {**other, "indexes": {index: {"columns": ["a"]}}}}})
        assert "already" in error.message
    error = await own(table({"a": {"type": "int", "unique": True}}, _dropIndexes=["t_a_key"]))
    assert "belongs to a constraint" in error.message
