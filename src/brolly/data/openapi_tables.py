"""The rows' routes of an app as a part of its OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from brolly.core.caller import Caller
from brolly.core.openapi import USUAL, Json, Part, answer, either, errors, header, ref
from brolly.core.postgrest import OBJECT
from brolly.core.reserved import ROUTE_WORDS
from brolly.data.access import is_closed, policies_for
from brolly.data.batch import Batch
from brolly.data.openapi_columns import component, enumeration, record
from brolly.data.openapi_parameters import (
    column_parameters,
    filter_schemas,
    filters,
    row_id,
    shared_parameters,
    table_parameters,
)
from brolly.data.openapi_rpc import Calls, callable_by, columns_of
from brolly.data.query_string import MAX_STORED
from brolly.pg.catalog import Column, Snapshot, Table
from brolly.registry import App

_JSON, _CSV = "application/json", "text/csv"
_OBJECT = f"{OBJECT}+json"
_STATUSES = (*USUAL, 406)
_TEXT: Json = {"type": "string"}
_HEADERS = {
    "Content-Range": header("Which rows these are, and of how many: 0-19/*, 0-19/3402, */0.", required=True),
    "Preference-Applied": header("What of Prefer was followed."),
    "Cache-Control": header("Kept by the asker alone, and asked for again.", required=True),
    "Vary": header("On what the answer depends.", required=True),
    "ETag": header("Changes with the row.", required=True),
    "Link": header("The next page, if there is one."),
    "X-Next-Cursor": header("Where the next page begins, if there is one and the table has a primary key."),
    "Location": header("The row, if one was stored and its primary key is answered."),
}
_DELETED: Json = {
    "type": "object",
    "required": ["deleted"],
    "properties": {"deleted": {"const": True}, "count": {"type": "integer", "minimum": 0}},
}


def verbs_of(table: Table, who: Caller) -> frozenset[str]:
    """What the caller's role may do with rows of the table, as far as policies tell.

    A service key may do all. To others a table is shown only once it is under row-level security: one that is open
    by oversight is not announced. Who changes or removes rows names them by a filter, and so must see them.
    """
    every = _offered(table)
    if who.kind == "service":
        return frozenset(every)
    if not table.rls_enabled or is_closed(table, who):
        return frozenset()
    bases = (table,) if table.view is None else table.view.bases
    found = {verb for verb in every if all(policies_for(base, who, verb) for base in bases)}
    return frozenset(found if "SELECT" in found else found & {"INSERT"})


def _offered(table: Table) -> set[str]:
    """What can be done with the rows, whoever asks."""
    view = table.view
    every = {"SELECT", "DELETE"} if view is None or view.deletable else {"SELECT"}
    if any(column.writable for column in table.columns.values()):
        every |= {"INSERT"} if view is None or view.insertable else set[str]()
        every |= {"UPDATE"} if view is None or view.updatable else set[str]()
    return every


async def describe_rows(_deps: Any, app: App, snapshot: Snapshot, who: Caller) -> Part:
    """The tables, views and functions that the caller's role may touch, and the batch."""
    relations = {**snapshot.tables, **snapshot.views}
    tables = {n: verbs for n, t in relations.items() if _has_route(n) and (verbs := verbs_of(t, who))}
    paths: dict[str, Json] = {f"/v1/{app.id}/batch": {"post": _batch(who)}}
    schemas: dict[str, Json] = {**_shared_schemas()}
    parameters = shared_parameters()
    if who.kind != "service":
        parameters = {k: v for k, v in parameters.items() if not k.startswith("As-")}
    for name, verbs in tables.items():
        table = _Table(snapshot, relations[name], verbs, who, frozenset(tables))
        paths |= table.paths(f"/v1/{app.id}/{quote(name, safe='')}")
        schemas |= table.schemas()
        parameters |= table.parameters()
    filtered = [relations[name] for name, verbs in tables.items() if "SELECT" in verbs]
    shown = [column for name in tables for column in relations[name].columns.values()]
    functions = callable_by(snapshot, who)
    for name, several in functions.items():
        calls = Calls(app.id, snapshot, name, several, who)
        paths[calls.path] = calls.item(_as(who))
        schemas |= calls.schemas()
        filtered += calls.tables
        shown += columns_of(snapshot, several)
    schemas |= filter_schemas(filtered) | _enums(snapshot, shown)
    names = dict.fromkeys(["batch", *(["rpc"] if functions else []), *tables])
    tags = tuple({"name": name} for name in names)
    return Part(paths, {"schemas": schemas, "parameters": parameters, "headers": _HEADERS}, tags)


def _headers(*names: str) -> Json:
    return {name: ref("headers", name) for name in names}


def _has_route(name: str) -> bool:
    return name not in ROUTE_WORDS and "/" not in name and name not in (".", "..")


def _enums(snapshot: Snapshot, columns: Sequence[Column]) -> dict[str, Json]:
    """The enumerated types of the columns that are shown."""
    used = {c.base_oid for c in columns} | {c.element_oid for c in columns}
    return {f"{component(e.name)}.Enum": enumeration(e) for oid, e in snapshot.enums.items() if oid in used}


def _shared_schemas() -> dict[str, Json]:
    batch: Json = Batch.model_json_schema(ref_template="#/components/schemas/Batch{model}")
    made: dict[str, Json] = {f"Batch{name}": schema for name, schema in batch.pop("$defs").items()}
    said = "A row as select asked for it: some columns, new names, casts, aggregates, related tables."
    result: Json = {
        "type": "object",
        "required": ["op", "table", "count"],
        "properties": {
            "name": _TEXT,
            "op": {"enum": ["insert", "upsert", "update", "delete"]},
            "table": _TEXT,
            "count": {"type": "integer", "minimum": 0},
            "rows": {"type": "array", "items": {"type": "object"}},
        },
    }
    results = {"type": "array", "items": result}
    return {
        **made,
        "Batch": batch,
        "BatchResults": {"type": "object", "required": ["results"], "properties": {"results": results}},
        "SelectedRow": {"type": "object", "description": said},
    }


def _as(who: Caller) -> list[Json]:
    return [ref("parameters", "As-Role"), ref("parameters", "As-User")] if who.kind == "service" else []


def _batch(who: Caller) -> Json:
    return {
        "operationId": "batch",
        "tags": ["batch"],
        "summary": "Do several writes in one transaction",
        "parameters": _as(who),
        "requestBody": {"required": True, "content": {_JSON: {"schema": ref("schemas", "Batch")}}},
        "responses": {"200": answer("What each step did.", {_JSON: ref("schemas", "BatchResults")}), **errors()},
    }


class _Table:
    """One table's paths and components."""

    def __init__(
        self, snapshot: Snapshot, table: Table, verbs: frozenset[str], who: Caller, seen: frozenset[str]
    ) -> None:
        self.snapshot, self.table, self.verbs, self.who, self.seen = snapshot, table, verbs, who, seen
        self.name = component(table.name)
        self.own = table_parameters(table)

    def schemas(self) -> dict[str, Json]:
        told = self.who.kind == "service"
        uses = [
            use for use, verb in (("Row", "SELECT"), ("Insert", "INSERT"), ("Update", "UPDATE")) if verb in self.verbs
        ]
        return {
            f"{self.name}.{use}": record(self.snapshot, self.table, use, told, self.seen)  # pyright: ignore[reportArgumentType]
            for use in uses
        }

    def parameters(self) -> dict[str, Json]:
        return {**self.own, **(column_parameters(self.table) if "SELECT" in self.verbs else {})}

    def paths(self, path: str) -> dict[str, Json]:
        many = {"get": self._list, "post": self._create, "patch": self._change, "delete": self._remove}
        found: dict[str, Json] = {path: self._operations(many)}
        if len(self.table.primary_key) == 1 and "SELECT" in self.verbs:
            one = {"get": self._get, "patch": self._change_one, "delete": self._remove_one}
            key = row_id(self.table.columns[self.table.primary_key[0]])
            found[f"{path}/{{id}}"] = {"parameters": [key], **self._operations(one)}
        return found

    def _operations(self, makers: dict[str, Any]) -> Json:
        needs = {"get": "SELECT", "post": "INSERT", "patch": "UPDATE", "delete": "DELETE"}
        return {method: make() for method, make in makers.items() if needs[method] in self.verbs}

    def _operation(
        self, verb: str, summary: str, parameters: list[Json], responses: Json, body: Json | None = None
    ) -> Json:
        found: Json = {
            "operationId": f"{verb}_{self.name}",
            "tags": [self.table.name],
            "summary": summary.format(self.table.name),
            "parameters": [*parameters, *_as(self.who)],
            "responses": {**responses, **errors(_STATUSES)},
        }
        if body:
            content = {kind: {"schema": schema} for kind, schema in body.items()}
            found["requestBody"] = {"required": True, "content": content}
        return found

    def _named(self, *names: str) -> list[Json]:
        return [ref("parameters", f"{self.name}-{n}") for n in names if f"{self.name}-{n}" in self.own]

    @property
    def _row(self) -> Json:
        return either(ref("schemas", f"{self.name}.Row"), ref("schemas", "SelectedRow"))

    @property
    def _rows(self) -> Json:
        return {"type": "array", "items": self._row}

    def _list(self) -> Json:
        more = _headers("Content-Range", "Link", "X-Next-Cursor", "Cache-Control", "Vary")
        content = {_JSON: self._rows, _OBJECT: self._row, _CSV: _TEXT}
        words = ("limit", "offset", "cursor", "Range", "Prefer-count")
        parameters = [
            *self._named("select", "order"),
            *(ref("parameters", w) for w in words),
            *filters(self.table),
        ]
        responses = {
            "200": answer("The rows.", content, more),
            "206": answer("The rows that Range asked for, of more.", content, more),
        }
        return self._operation("list", "Read rows of {}", parameters, responses)

    def _get(self) -> Json:
        headers = _headers("ETag", "Cache-Control", "Vary")
        parameters = [*self._named("select"), ref("parameters", "If-None-Match"), *filters(self.table)]
        responses = {
            "200": answer("The row.", {_JSON: self._row, _CSV: _TEXT}, headers),
            "304": answer("It is the row that If-None-Match names.", None, headers),
        }
        return self._operation("get", "Read one row of {}", parameters, responses)

    def _create(self) -> Json:
        row = ref("schemas", f"{self.name}.Insert")
        rows: Json = {"type": "array", "items": row, "minItems": 1, "maxItems": MAX_STORED}
        body = {_JSON: either(row, rows), _CSV: {**_TEXT, "description": "Names in the first line; NULL is null."}}
        back = either(self._row, {"type": "null"}, self._rows) if "SELECT" in self.verbs else {"type": "null"}
        content = {_JSON: back, _OBJECT: self._row, _CSV: _TEXT}
        if "SELECT" not in self.verbs:
            content = {_JSON: back}
        headers = _headers("Preference-Applied", "Location", "Content-Range")
        responses = {
            "201": answer("The rows that were stored, as far as they may be read.", content, headers),
            "200": answer("Nothing was stored: the rows were there already.", content, headers),
        }
        parameters = [*self._named("select", "columns", "on_conflict"), ref("parameters", "Prefer-store")]
        return self._operation("create", "Store rows of {}", parameters, responses, body)

    def _written(self, content: Json, headers: Json) -> Json:
        return {"200": answer("What was done.", content, headers), "204": answer("It is done.", None, headers)}

    def _change(self) -> Json:
        responses = self._written(
            {_JSON: self._rows, _OBJECT: self._row, _CSV: _TEXT}, _headers("Preference-Applied", "Content-Range")
        )
        parameters = [*self._named("select", "columns"), ref("parameters", "Prefer-return"), *filters(self.table)]
        said = "Change the rows of {} that the filters name"
        return self._operation("change", said, parameters, responses, self._update_body)

    def _change_one(self) -> Json:
        content = {_JSON: either(self._row, {"type": "null"})}
        parameters = [*self._named("select", "columns"), ref("parameters", "Prefer-return"), *filters(self.table)]
        responses = self._written(content, _headers("Preference-Applied"))
        return self._operation("change_one", "Change one row of {}", parameters, responses, self._update_body)

    @property
    def _update_body(self) -> Json:
        return {_JSON: ref("schemas", f"{self.name}.Update")}

    def _remove(self) -> Json:
        content = {_JSON: either(_DELETED, self._rows), _OBJECT: self._row, _CSV: _TEXT}
        responses = self._written(content, _headers("Preference-Applied", "Content-Range"))
        parameters = [*self._named("select"), ref("parameters", "Prefer-return"), *filters(self.table)]
        return self._operation("remove", "Remove the rows of {} that the filters name", parameters, responses)

    def _remove_one(self) -> Json:
        responses = self._written({_JSON: either(_DELETED, self._row)}, _headers("Preference-Applied"))
        parameters = [*self._named("select"), ref("parameters", "Prefer-return"), *filters(self.table)]
        return self._operation("remove_one", "Remove one row of {}", parameters, responses)
