"""What should stand where a document has something of another form: by place, ready to paste."""

from __future__ import annotations

import json
from typing import Any, cast

from brolly.schema.types import parse_type

_SERIAL = '{"type": "serial"}'
_MAX_SHOWN = 40

# By the depth of the place; below a table, by what the third part says.
_OBJECTS = {
    0: '{"tables": {"todos": {"columns": {"id": {"type": "serial"}}}}}',
    1: '{"todos": {"columns": {"id": {"type": "serial"}}}}',
    2: '{"columns": {"id": {"type": "serial"}}}',
}
_BELOW_TABLE = {
    ("columns", 3): f'{{"id": {_SERIAL}}}',
    ("columns", 4): _SERIAL,
    ("indexes", 3): '{"i": {"columns": ["c"]}}',
    ("indexes", 4): '{"columns": ["c"]}',
    ("checks", 3): '{"c": "price >= 0"}',
    ("_alterType", 3): '{"c": "c::integer"}',
}


def must_be_object(loc: list[str], given: Any) -> str:
    """What is wrong with a value that should be an object."""
    if given is None and (removal := _removal(loc)):
        return f"null does not remove it; to remove it: {removal}"
    if loc[:1] in (["views"], ["functions"]):
        return _routine(loc)
    example = _repaired(loc, given) or _OBJECTS.get(len(loc)) or _BELOW_TABLE.get((loc[2], len(loc)))
    return "must be an object" + (f", such as {example}" if example else "")


_VIEW = '{"query": "select id, title from posts"}'
_FUNCTION = '{"arguments": {"q": "text"}, "returns": "setof posts", "body": "select * from posts where title = q"}'


def _routine(loc: list[str]) -> str:
    one = _VIEW if loc[0] == "views" else _FUNCTION
    if len(loc) <= 2:
        return "must be an object, such as " + (f'{{"name": {one}}}' if len(loc) == 1 else one)
    return 'must be an object, such as {"q": "text"}'


def _removal(loc: list[str]) -> str:
    name = json.dumps([loc[-1]]) if loc else ""
    if len(loc) == 2 and loc[0] in ("views", "functions"):
        return f'"_drop{loc[0].capitalize()}": {name} beside "{loc[0]}"'
    if len(loc) == 2:
        return f'"_drop": {name} beside "tables"'
    if len(loc) == 4 and loc[2] in ("columns", "indexes"):
        return f'"_drop{loc[2].capitalize()}": {name} in table {loc[1]}'
    return ""


def _repaired(loc: list[str], given: Any) -> str:
    """The object that was meant, where what was given tells."""
    if len(loc) != 4:
        return ""
    if loc[2] == "columns" and _is_type(given):
        return json.dumps({"type": given})
    if loc[2] == "indexes" and isinstance(given, list):
        columns = cast(list[Any], given)
        shown = json.dumps({"columns": columns})
        if columns and all(isinstance(column, str) for column in columns) and len(shown) <= _MAX_SHOWN:
            return shown
    return ""


def column_on_table(key: str, given: Any) -> str:
    """Where a column goes that was given as a key of its table; empty for what is no column."""
    if _is_type(given):
        given = {"type": given}
    elif not (isinstance(given, dict) and "type" in given):
        return ""
    shown = json.dumps({key: given})
    return 'columns go under "columns"' + (f": {shown}" if len(shown) <= _MAX_SHOWN else "")


def _is_type(given: Any) -> bool:
    if not isinstance(given, str) or len(given) > _MAX_SHOWN:
        return False
    try:
        parse_type(given)
    except ValueError:
        return False
    return True
