"""The grammar of ``select``: columns, renames, casts, aggregates and embedded tables."""

from __future__ import annotations

import re

from brolly.data.grammar import Field, Reader
from brolly.data.request import Embed, FilterSyntaxError, Item, ReadRequest, shown

AGGREGATES = ("count", "sum", "avg", "min", "max")
CASTS = {
    "text": "text",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "integer": "integer",
    "smallint": "smallint",
    "bigint": "bigint",
    "numeric": "numeric",
    "decimal": "numeric",
    "real": "real",
    "float": "double precision",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "boolean": "boolean",
    "uuid": "uuid",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "interval": "interval",
    "json": "json",
    "jsonb": "jsonb",
}
MAX_DEPTH = 5
MAX_EMBEDS = 20
MAX_ITEMS = 200

_ALIAS = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^",.:()!*>\-](?:[^",.:()!>-]|-(?!>))*)):(?!:)')
_AGGREGATE = re.compile(r"([a-z]+)\(\)")


class _Budget:
    def __init__(self) -> None:
        self.items, self.embeds = MAX_ITEMS, MAX_EMBEDS

    def spend(self, embed: bool) -> None:
        self.items -= 1
        self.embeds -= embed
        if self.items < 0 or self.embeds < 0:
            raise FilterSyntaxError(f"select holds at most {MAX_ITEMS} names and {MAX_EMBEDS} embedded tables")


def parse_selection(text: str, limit: int) -> tuple[Item | Embed, ...]:
    """The tree that is asked for. ``limit`` is the most rows of each embedded table."""
    reader = Reader(text)
    reader.spaces()
    if reader.done:
        return ()
    found = _items(reader, limit, 1, _Budget())
    if not reader.done:
        raise FilterSyntaxError(f"expected a comma before {reader.rest!r}")
    return found


def _items(reader: Reader, limit: int, depth: int, budget: _Budget) -> tuple[Item | Embed, ...]:
    if depth > MAX_DEPTH:
        raise FilterSyntaxError(f"tables may be embedded {MAX_DEPTH - 1} deep")
    found: list[Item | Embed] = []
    while True:
        reader.spaces()
        found.append(_item(reader, limit, depth, budget))
        reader.spaces()
        if not reader.take(","):
            return tuple(found)


def _item(reader: Reader, limit: int, depth: int, budget: _Budget) -> Item | Embed:
    spread = reader.take("...")
    if not spread and reader.take("*"):
        budget.spend(False)
        return Item("*")
    alias = None
    if named := reader.match(_ALIAS):
        quoted, plain = named.groups()
        alias = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain.strip()
    reader.spaces()
    if counted := reader.match(re.compile(r"count\(\)")):
        budget.spend(False)
        return Item("", alias=alias, aggregate=counted.group()[:-2], result_cast=_cast(reader))
    field = reader.field()
    hints = list[str]()
    while reader.take("!"):
        hints.append(reader.name())
    if spread or hints or reader.text.startswith("(", reader.at):
        budget.spend(True)
        return _embed(reader, field, alias, hints, spread, (limit, depth, budget))
    budget.spend(False)
    cast, aggregate, result_cast = _cast(reader), None, None
    if reader.take("."):
        aggregate = _aggregate(reader)
        result_cast = _cast(reader)
    return Item(field.column, field.path, field.as_text, alias, cast, aggregate, result_cast)


def _embed(
    reader: Reader, field: Field, alias: str | None, hints: list[str], spread: bool, inside: tuple[int, int, _Budget]
) -> Embed:
    limit, depth, budget = inside
    words = [h for h in hints if h in ("inner", "left")]
    names = [h for h in hints if h not in ("inner", "left")]
    if field.path or len(words) > 1 or len(names) > 1:
        raise FilterSyntaxError(f"{shown(field.column)} cannot be embedded like this; write table!hint!inner(columns)")
    reader.need("(")
    reader.spaces()
    items = () if reader.text.startswith(")", reader.at) else _items(reader, limit, depth + 1, budget)
    reader.need(")")
    request = ReadRequest(field.column, items, limit=limit)
    return Embed(request, alias, names[0] if names else None, "inner" in words, spread, silent=not items)


def _cast(reader: Reader) -> str | None:
    if not reader.take("::"):
        return None
    name = reader.name()
    if name not in CASTS:
        raise FilterSyntaxError(f"there is no cast to {shown(name)}; there are {', '.join(CASTS)}")
    return CASTS[name]


def _aggregate(reader: Reader) -> str:
    found = reader.match(_AGGREGATE)
    if found is None or found.group(1) not in AGGREGATES:
        raise FilterSyntaxError(f"expected {', '.join(a + '()' for a in AGGREGATES)} before {reader.rest!r}")
    return found.group(1)
