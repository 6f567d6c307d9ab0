"""For any document: applied twice it changes nothing, read back it says the same, and the way back leads back."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from brolly.schema.description import describe
from brolly.schema.tool import MANAGE_SCHEMA
from brolly.schema.types import parse_type

Spec = dict[str, Any]

# Keywords too, since names are quoted.
TABLES = ["todos", "order", "user", "select", "a" * 63, "x_1"]
COLUMNS = ["title", "group", "default", "table", "b" * 63, "n", "_n", "check"]

DEFAULTS: dict[str, list[Any]] = {
    "text": ["'draft'", "'it''s'", "''", "'a'::text", "'\\'", "current_user_id()", "'é; drop table x --'", "md5('x')"],
    "varchar": ["'x'", "'x'::varchar"],
    "varchar(20)": ["'x'", "'abc'::varchar(2)", "'x'::character varying(20)"],
    "char(3)": ["'abc'", "'a'::char(3)"],
    "CHAR": ["'a'"],
    "uuid": [
        "gen_random_uuid()",
        "uuid_generate_v4()",
        "'00000000-0000-0000-0000-000000000000'",
        "current_user_id()::uuid",
    ],
    "boolean": ["true", "FALSE", False, "'t'"],
    "bool": ["true"],
    "int": ["0", "-1", 7, "'5'", "1 + 2", "-1::int", "'-1'::integer", "(3)", "2147483647"],
    "int4": ["0"],
    "int8": ["-9000000000", "0", "(extract(epoch from now()) * 1000)::bigint"],
    "smallint": ["1", "-32768"],
    "real": ["0.5", "1", "-1.5e3"],
    "double precision": ["0.1", "random()", "-2"],
    "float8": ["1e10"],
    "numeric": ["1.50", "0", "-1"],
    "numeric(10, 2)": ["1.5", "-0.01"],
    "decimal(5)": ["3"],
    "timestamptz": ["now()", "CURRENT_TIMESTAMP", "now() + interval '7 days'", "'2026-01-01T00:00:00Z'"],
    "timestamp": ["now()", "timezone('utc', now())", "now() at time zone 'utc'", "LOCALTIMESTAMP"],
    "date": ["CURRENT_DATE", "'2026-01-01'", "date '2026-01-01'", "now()::date"],
    "time": ["'12:00'", "LOCALTIME"],
    "timetz": ["CURRENT_TIME", "'12:00+00'"],
    "interval": ["'1 week'", "interval '2 hours'"],
    "jsonb": ["'{}'", "'{}'::jsonb", "'[]'::jsonb", "'{\"a\": [1, null]}'"],
    "json": ["'{}'::json"],
    "bytea": ["'\\xdead'"],
    "vector(3)": ["'[1,2,3]'", "'[0,0,0]'::vector"],
    "vector": ["'[1]'"],
    "text[]": ["'{}'", "ARRAY['a', 'b']", "array[]::text[]", "'{}'::text[]"],
    "int4[]": ["'{1,2}'", "ARRAY[1, -2]"],
    "double precision[]": ["'{}'"],
    "varchar(10)[]": ["'{}'"],
    "uuid[]": ["'{}'::uuid[]"],
    "serial": [],
    "bigserial": [],
}
ORDERED = ["text", "varchar(20)", "uuid", "boolean", "int", "int8", "numeric(10, 2)", "timestamptz", "date"]
CHECKS = {
    "text": ["{c} <> ''", "{c} in ('a', 'b')", "length({c}) < 100 and {c} is not null"],
    "varchar(20)": ["{c} in ('a', 'b')", "{c} like 'a%'", "{c} between 'a' and 'z'"],
    "int": ["{c} > 0", "{c} in (1, -2)", "not ({c} = 5 or {c} is null)"],
    "numeric(10, 2)": ["{c} >= 0.5", "{c} > -1"],
    "timestamptz": ["{c} > '2020-01-01'"],
    "jsonb": ["jsonb_typeof({c}) = 'object'"],
}


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Spec]:
    found: dict[str, Spec] = {}
    for name in draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=5, unique=True)):
        kind = draw(st.sampled_from(sorted(DEFAULTS)))
        column: Spec = {"type": draw(st.sampled_from([kind, kind.upper()]))}
        serial = kind.endswith("serial")
        if not serial and draw(st.booleans()):
            column["nullable"] = draw(st.booleans())
        if DEFAULTS[kind] and draw(st.booleans()):
            column["default"] = draw(st.sampled_from(DEFAULTS[kind]))
        if kind in ORDERED and draw(st.integers(0, 3)) == 0:
            column["unique"] = True
        found[name] = column
    return found


@st.composite
def tables(draw: st.DrawFn) -> Spec:
    table: Spec = {"columns": draw(columns())}
    key = draw(st.sampled_from(["uuid", "serial", "int", "composite", "none"]))
    if key == "composite":
        table["columns"] |= {"k1": {"type": "uuid"}, "k2": {"type": "text", "nullable": False}}
        table["primaryKey"] = draw(st.permutations(["k1", "k2"]))
    elif key != "none":
        default = {"default": "gen_random_uuid()"} if key == "uuid" and draw(st.booleans()) else {}
        table["columns"] = {"id": {"type": key, "primaryKey": True, **default}, **table["columns"]}
    return table


@st.composite
def documents(draw: st.DrawFn) -> Spec:
    found = {
        name: draw(tables()) for name in draw(st.lists(st.sampled_from(TABLES), min_size=1, max_size=4, unique=True))
    }
    targets = [(n, t["columns"]["id"]["type"]) for n, t in found.items() if "id" in t["columns"]]
    for number, (name, table) in enumerate(found.items()):
        if targets and draw(st.booleans()):
            target, kind = draw(st.sampled_from(targets))
            plain = {"serial": "integer"}.get(kind, kind)
            rule = draw(st.sampled_from(["NO ACTION", "cascade", "SET NULL", "RESTRICT"]))
            long = {
                "table": target,
                "column": "id",
                "onDelete": rule,
                "onUpdate": draw(st.sampled_from(["CASCADE", "NO ACTION"])),
            }
            table["columns"]["ref"] = {"type": plain, "references": draw(st.sampled_from([f"{target}.id", long]))}
        add_indexes(draw, number, table)
        add_checks(draw, table)
        assert name
    return {"tables": found}


def add_indexes(draw: st.DrawFn, number: int, table: Spec) -> None:
    kinds = {name: column["type"].lower() for name, column in table["columns"].items()}
    plain = [name for name, kind in kinds.items() if kind in ORDERED]
    indexes: Spec = {}
    if plain and draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(plain), min_size=1, max_size=3, unique=True))
        indexes[f"i{number}_plain"] = {"columns": chosen, "unique": draw(st.booleans())}
    for name, kind in kinds.items():
        if kind == "vector(3)":
            method = draw(st.sampled_from(["hnsw", "ivfflat"]))
            indexes[f"i{number}_v"] = {"columns": [name], "method": method, "opclass": "vector_cosine_ops"}
        if kind == "jsonb":
            opclass = draw(st.sampled_from([{}, {"opclass": "jsonb_path_ops"}, {"opclass": "jsonb_ops"}]))
            indexes[f"i{number}_j"] = {"columns": [name], "method": "gin", **opclass}
        if kind == "text" and draw(st.booleans()):
            indexes[f"i{number}_t"] = {"columns": [name], "opclass": "text_pattern_ops"}
        if kind == "uuid" and draw(st.booleans()):
            indexes[f"i{number}_h"] = {"columns": [name], "method": "HASH"}
    if indexes:
        table["indexes"] = indexes


def add_checks(draw: st.DrawFn, table: Spec) -> None:
    checks: dict[str, str] = {}
    for name, column in table["columns"].items():
        if (texts := CHECKS.get(column["type"].lower())) and draw(st.booleans()):
            checks[f"ok_{name}"[:63]] = draw(st.sampled_from(texts)).format(c=f'"{name}"')
    if checks:
        table["checks"] = checks


def evolved(old: Spec, new: Spec, keep: bool) -> Spec:
    """The new document with what it needs to replace the old one; ``keep``: what it leaves out stays."""
    document: Spec = {"tables": {name: dict(table) for name, table in new["tables"].items()}}
    if not keep:
        document["_drop"] = [name for name in old["tables"] if name not in new["tables"]]
    for name, table in document["tables"].items():
        before = old["tables"].get(name)
        if before is None:
            continue
        changed = {
            c: f"null::{parse_type(spec['type']).stored.name}"
            for c, spec in table["columns"].items()
            if c in before["columns"] and parse_type(before["columns"][c]["type"]) != parse_type(spec["type"])
        }
        if changed:
            table["_alterType"] = changed
        gone = before.get("checks", {}).keys() - table.get("checks", {}).keys()
        table["checks"] = {**table.get("checks", {}), **dict.fromkeys(gone)}
        if not keep:
            table["_dropColumns"] = [c for c in before["columns"] if c not in table["columns"]]
            table["_dropIndexes"] = [i for i in before.get("indexes", {}) if i not in table.get("indexes", {})]
            keyed = "primaryKey" in table or any(c.get("primaryKey") for c in table["columns"].values())
            if not keyed:
                table["primaryKey"] = []
    return document


def meaning(document: Spec) -> Spec:
    """A document in one form, without default and check texts, which only Postgres can compare."""
    return {name: table_meaning(table) for name, table in document["tables"].items()}


def table_meaning(table: Spec) -> Spec:
    key = table.get("primaryKey") or [n for n, c in table["columns"].items() if c.get("primaryKey")]
    found: Spec = {"key": key, "columns": {}}
    for name, column in table["columns"].items():
        kind = parse_type(column["type"])
        target: Any = column.get("references")
        if isinstance(target, str):
            target = dict(zip(("table", "column"), target.split("."), strict=True))
        if target:
            rules = {rule: target.get(rule, "NO ACTION").upper() for rule in ("onDelete", "onUpdate")}
            target = (target["table"], target["column"], rules)
        found["columns"][name] = {
            "type": kind.name,
            "nullable": column.get("nullable") is not False and not kind.serial and name not in key,
            "default": column.get("default") is not None,
            "unique": bool(column.get("unique")) and key != [name],
            "references": target,
        }
    defaults = {"jsonb_ops"}
    found["indexes"] = {
        name: (
            index["columns"],
            bool(index.get("unique")),
            index.get("method", "btree").lower(),
            None if index.get("opclass") in defaults else index.get("opclass"),
        )
        for name, index in table.get("indexes", {}).items()
    }
    found["checks"] = {name for name, text in table.get("checks", {}).items() if text is not None}
    return found


class Schema:
    """manage_schema on one app, as the owner."""

    def __init__(self, deps: Deps, owner: Caller, app: App) -> None:
        self.deps, self.owner, self.app = deps, owner, app

    async def run(self, action: str, **arguments: Any) -> Any:
        return await MANAGE_SCHEMA.run(self.deps, self.owner, action, {"app_id": self.app.id, **arguments})

    async def apply(self, document: Spec) -> Any:
        return await self.run("apply", schema=document)

    async def get(self) -> Spec:
        return (await self.run("get"))["schema"]

    async def snapshot(self) -> Snapshot:
        async with self.deps.pools.owner(self.app) as conn:
            return await read_snapshot(conn)

    async def clear(self) -> None:
        await self.apply({"_drop": list((await self.get())["tables"])})

    async def settled(self, document: Spec) -> None:
        """The document says what is there, in both directions."""
        again = await self.apply(document)
        assert again["applied"] == 0, again["statements"]
        found = await self.get()
        back = await self.apply(found)
        assert back["applied"] == 0, back["statements"]
        assert (await self.run("dry_run", schema=found))["applied"] == 0

    async def undo(self) -> None:
        async with self.deps.pools.owner(self.app) as conn:
            down = await conn.fetchval("select sql_down from brolly.migrations order by id desc limit 1")
            assert "no way back" not in down
            async with conn.transaction():
                await conn.execute(down)
        await self.deps.catalog.changed(self.app)


def structure(snapshot: Snapshot) -> Spec:
    """A snapshot without what a way back cannot restore: the order of columns, the wording of checks."""
    return {
        name: table | {"columns": dict(sorted(table["columns"].items())), "checks": sorted(table.get("checks", ()))}
        for name, table in describe(snapshot)["tables"].items()
    }


QUICK = settings(
    max_examples=24,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@QUICK
@given(document=documents())
async def test_a_document_reads_back_as_applied(deps: Deps, owner: Caller, app: App, document: Spec) -> None:
    schema = Schema(deps, owner, app)
    await schema.clear()
    preview = await schema.run("dry_run", schema=document)
    assert not any("blocked" in step for step in preview["statements"])
    applied = await schema.apply(document)
    assert applied["applied"] == preview["applied"] > 0
    assert meaning(await schema.get()) == meaning(document)
    await schema.settled(document)


@QUICK
@given(old=documents(), new=documents(), keep=st.booleans())
async def test_a_document_follows_another(
    deps: Deps, owner: Caller, app: App, old: Spec, new: Spec, keep: bool
) -> None:
    schema = Schema(deps, owner, app)
    await schema.clear()
    await schema.apply(old)
    before = await schema.snapshot()
    document = evolved(old, new, keep)
    try:
        applied = await schema.apply(document)
    except AppError as error:
        # A kept column may refer to a key that the new document takes away, or not fit its new type.
        assume(not keep)
        raise AssertionError(f"{error.message} {error.details}") from error
    found = await schema.get()
    if keep:
        assert meaning(document).keys() <= found["tables"].keys()
    else:
        assert meaning(found) == meaning(document)
    await schema.settled(document)
    if applied["applied"]:
        await schema.undo()
        assert structure(await schema.snapshot()) == structure(before)
