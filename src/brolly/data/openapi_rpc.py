"""An app's own functions as a part of its OpenAPI document: how they are called, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from brolly.core.caller import Caller
from brolly.core.openapi import USUAL, Json, answer, either, errors, ref
from brolly.core.postgrest import OBJECT
from brolly.data.openapi_columns import component, record, value
from brolly.data.openapi_parameters import GROUPS, column_parameters, table_parameters
from brolly.pg.catalog import Argument, Column, Function, Snapshot, Table

_JSON, _CSV, _OBJECT = "application/json", "text/csv", f"{OBJECT}+json"
_TEXT: Json = {"type": "string"}
_SAID = "One that answers rows takes select, order, limit, offset and filters too."


def callable_by(snapshot: Snapshot, who: Caller) -> dict[str, tuple[Function, ...]]:
    """The functions that the caller's role was given, by name; some are several of one name.

    To be exposed to a role is the owner's word that it may come, and so that it may know of it.
    """
    found: dict[str, tuple[Function, ...]] = {}
    for name, several in snapshot.functions.items():
        allowed = tuple(
            f for f in several if who.role in f.roles and f.plain and (not f.definer or who.kind == "service")
        )
        if allowed and "/" not in name and name not in (".", ".."):
            found[name] = allowed
    return found


def answered(snapshot: Snapshot, function: Function) -> Table | None:
    """The rows that the function answers; None where it answers none. Any value of them may be missing."""
    columns = function.columns
    if function.relation is not None:
        relation = snapshot.relation(function.relation)
        columns = relation.columns if relation else dict[str, Column]()
    if not columns:
        return None
    return Table(function.name, {name: replace(column, nullable=True) for name, column in columns.items()})


def columns_of(snapshot: Snapshot, functions: Iterable[Function]) -> list[Column]:
    """Every column that calling the functions shows or takes."""
    found: list[Column] = []
    for function in functions:
        table = answered(snapshot, function)
        found += [a.value for a in function.arguments]
        found += [*table.columns.values()] if table else [function.value] if function.value else []
    return found


class Calls:
    """The calls of the functions of one name."""

    def __init__(self, app_id: str, snapshot: Snapshot, name: str, functions: Sequence[Function], who: Caller) -> None:
        self.snapshot, self.name, self.functions, self.who = snapshot, name, functions, who
        self.path = f"/v1/{app_id}/rpc/{quote(name, safe='')}"
        self.tables = [table for f in functions if (table := answered(snapshot, f)) is not None]

    def item(self, acting: list[Json]) -> Json:
        """The path's operations: GET for what only reads."""
        found: Json = {"post": self._operation("call", [*self._words(set()), *acting])}
        found["post"]["requestBody"] = {"required": True, "content": {_JSON: {"schema": self._body()}}}
        if not any(f.volatility == "volatile" for f in self.functions):
            given = {a.name: a for f in self.functions for a in f.arguments}
            every = [self._queried(argument) for argument in given.values()]
            found["get"] = self._operation("ask", [*every, *self._words(set(given)), *acting])
        return found

    def schemas(self) -> dict[str, Json]:
        """The rows that are answered."""
        name = f"Rpc.{component(self.name)}.Row"
        rows = [record(self.snapshot, table, "Row", False, frozenset()) for table in self.tables]
        return {name: either(*rows)} if rows else {}

    def _body(self) -> Json:
        bodies: list[Json] = []
        for function in self.functions:
            properties = {a.name: self._sent(a) for a in function.arguments}
            body: Json = {"type": "object", "properties": properties, "additionalProperties": False}
            if required := [a.name for a in function.arguments if a.default is None]:
                body["required"] = required
            bodies.append(body)
        return either(*bodies)

    def _sent(self, argument: Argument) -> Json:
        schema = value(self.snapshot, replace(argument.value, nullable=True), "Insert")
        if self.who.kind != "service" or argument.default is None:
            return schema
        said = " ".join(filter(None, (schema.get("description"), f"Default: {argument.default}.")))
        return {**schema, "description": said}

    def _queried(self, argument: Argument) -> Json:
        schema = value(self.snapshot, replace(argument.value, nullable=False), "Insert")
        if argument.value.category == "A":
            schema = {**_TEXT, "description": f"{argument.value.type}, as Postgres writes it: {{1,2}}."}
        elif "anyOf" in schema:
            schema = next((each for each in schema["anyOf"] if each.get("type") != "array"), _TEXT)
        elif not schema:
            schema = {**_TEXT, "description": f"{argument.value.type} as text."}
        needed = all(any(a.name == argument.name and a.default is None for a in f.arguments) for f in self.functions)
        return {"name": argument.name, "in": "query", "required": needed, "schema": schema}

    def _words(self, taken: set[str]) -> list[Json]:
        """What chooses among the rows; an argument of the same name comes first."""
        found: dict[str, Json] = {}
        for table in self.tables:
            own = table_parameters(table)
            for each in (own.get(f"{component(table.name)}-{word}") for word in ("select", "order")):
                if each is not None:
                    found.setdefault(each["name"], each)
            for each in column_parameters(table).values():
                found.setdefault(each["name"], each)
        if self.tables:
            found |= {word: ref("parameters", word) for word in ("limit", "offset", *GROUPS)}
            found["Prefer"] = ref("parameters", "Prefer-count")
        return [each for name, each in found.items() if name not in taken]

    def _operation(self, verb: str, parameters: list[Json]) -> Json:
        wrong = answer("The function refused it with a status of its own.", {_JSON: ref("schemas", "Error")})
        found: Json = {
            "operationId": f"{verb}_rpc_{component(self.name)}",
            "tags": ["rpc"],
            "summary": f"Call {self.name}",
            "parameters": parameters,
            "responses": {**self._answers(), **errors((*USUAL, 406)), "default": wrong},
        }
        if self.tables:
            found["description"] = _SAID
        return found

    def _answers(self) -> Json:
        content: dict[str, list[Json]] = {}
        for function in self.functions:
            for kind, schema in self._content(function).items():
                content.setdefault(kind, []).append(schema)
        words = ("Cache-Control", "Vary") + (("Content-Range", "Link") if self.tables else ())
        headers: Json = {word: ref("headers", word) for word in words}
        if any(not f.many or not self._has_rows(f) for f in self.functions) and self.tables:
            # Known for pages alone; one row or value has none.
            del headers["Content-Range"]
        found: Json = {}
        if content:
            kinds = {kind: either(*schemas) for kind, schemas in content.items()}
            found["200"] = answer("What it answers.", kinds, headers)
        if any(f.void for f in self.functions):
            found["204"] = answer("It is done.")
        return found

    def _has_rows(self, function: Function) -> bool:
        return answered(self.snapshot, function) is not None

    def _content(self, function: Function) -> dict[str, Json]:
        if self._has_rows(function):
            row = either(ref("schemas", f"Rpc.{component(self.name)}.Row"), ref("schemas", "SelectedRow"))
            if not function.many:
                return {_JSON: either(row, {"type": "null"})}
            return {_JSON: {"type": "array", "items": row}, _OBJECT: row, _CSV: _TEXT}
        if function.value is None:
            return {}
        one: Any = value(self.snapshot, replace(function.value, nullable=True), "Row")
        return {_JSON: {"type": "array", "items": one} if function.many else one}
