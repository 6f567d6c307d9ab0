"""What is wrong with a schema document: every problem at once, each with the place where it is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from brolly.core.errors import AppError
from brolly.core.wording import in_json
from brolly.schema.shapes import column_on_table, must_be_object

# The keys of each kind of object in a document, as its author writes them.
_KEYS: dict[str, tuple[str, ...]] = {
    "document": ("tables", "views", "functions", "_drop", "_dropViews", "_dropFunctions"),
    "table": ("columns", "indexes", "primaryKey", "checks", "_dropColumns", "_dropIndexes", "_alterType"),
    "column": ("type", "primaryKey", "nullable", "default", "unique", "references"),
    "index": ("columns", "unique", "method", "opclass"),
    "view": ("query",),
    "function": ("arguments", "returns", "language", "body", "volatility", "expose"),
    "argument": ("type", "default"),
    "references": ("table", "column", "onDelete", "onUpdate"),
}

# Keys of earlier versions and of other tools, and what replaces them here.
_OBSOLETE = {
    ("column", "primary"): "use primaryKey",
    ("column", "primary_key"): "use primaryKey",
    ("column", "notNull"): 'use "nullable": false',
    ("column", "not_null"): 'use "nullable": false',
    ("column", "required"): 'use "nullable": false',
    ("column", "check"): 'use "checks": {"name": "expression"} on the table',
    ("column", "foreignKey"): "use references",
    ("column", "autoIncrement"): "use type serial",
    ("index", "type"): "use method",
    ("table", "_drop"): 'name the table in "_drop": ["table"] beside "tables"',
    ("table", "drop"): 'name the table in "_drop": ["table"] beside "tables"',
    ("table", "foreignKeys"): "use references on the column",
    ("table", "unique"): 'use "unique": true on the column, or a unique index for several columns',
    ("document", "_dropTables"): "use _drop",
    ("view", "sql"): "use query",
    ("view", "definition"): "use query",
    ("view", "security_invoker"): "leave it out: views always run with the rights of who reads them",
    ("function", "args"): "use arguments",
    ("function", "parameters"): "use arguments",
    ("function", "return_type"): "use returns",
    ("function", "definition"): "use body",
    ("function", "roles"): "use expose",
    ("function", "_drop"): 'name the function in "_dropFunctions": ["f"] beside "functions"',
    ("view", "_drop"): 'name the view in "_dropViews": ["v"] beside "views"',
}
MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` is where, with dots."""

    path: str
    message: str
    code: str = "VALIDATION_INVALID_SCHEMA"


def refuse(problems: Sequence[Problem]) -> AppError:
    """The one error that names all problems; its code is theirs when they agree."""
    codes = {problem.code for problem in problems}
    code = codes.pop() if len(codes) == 1 else "VALIDATION_INVALID_SCHEMA"
    shown = [f"{p.path}: {p.message}" if p.path else p.message for p in problems]
    more = f"; and {len(shown) - 5} more, see details" if len(shown) > 5 else ""
    return AppError(
        code,
        sentence(f"The schema document is not accepted: {'; '.join(shown[:5])}{more}"),
        remediation=None
        if code == "QUOTA_TABLE_LIMIT"
        else "Correct the places named in details.problems and try manage_schema dry_run; nothing was changed.",
        details={"problems": [{"path": p.path, "message": p.message} for p in problems]},
    )


def sentence(text: str) -> str:
    """The text with its full stop, unless it has an end of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def problems_of(error: ValidationError) -> list[Problem]:
    """What pydantic found, in the document's own words."""
    found: list[Problem] = []
    # Nobody mends more at once, and each is compared with every name that may have been meant.
    for item in error.errors(include_url=False)[:MOST_PROBLEMS]:
        loc = [str(part) for part in item["loc"] if part != "[key]"]
        message = in_json(item)
        if item["type"] == "extra_forbidden":
            message = _unknown_key(loc, item["input"])
        elif item["type"] in ("dict_type", "model_type"):
            message = must_be_object(loc, item["input"])
        elif item["type"] == "missing":
            loc, message = loc[:-1], f"{loc[-1]} is missing"
        found.append(Problem(".".join(loc), message))
    return found


def _kind(loc: list[str]) -> str:
    """The kind of object that the last part of the path is a key of."""
    if len(loc) == 1:
        return "document"
    if loc[0] == "views":
        return "view"
    if loc[0] == "functions":
        return "argument" if loc[2:3] == ["arguments"] else "function"
    if len(loc) == 3:
        return "table"
    if loc[4:5] and loc[-2] == "references":
        return "references"
    return "index" if loc[2:3] == ["indexes"] else "column"


def _unknown_key(loc: list[str], given: Any) -> str:
    kind, key = _kind(loc), loc[-1]
    if hint := _OBSOLETE.get((kind, key)):
        return f"{key} is not a key of a {kind}; {hint}"
    if kind == "table" and (hint := column_on_table(key, given)):
        return f"{key} is not a key of a table; {hint}"
    near = nearest(key, _KEYS[kind])
    if kind == "document":
        return f"{key} is not a key of the document" + (near or '; tables go under "tables"')
    return f"{key} is not a key of a {kind}" + (near or f"; allowed: {', '.join(_KEYS[kind])}")


def nearest(name: str, names: Sequence[str]) -> str:
    """``; did you mean x?``, or nothing when no name is near."""
    # Snake case for camel case is the commonest slip.
    head, *rest = name.split("_") if not name.startswith("_") else [name]
    camel = head + "".join(part.capitalize() for part in rest)
    near = difflib.get_close_matches(camel, names, 1, 0.6) or difflib.get_close_matches(name, names, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""
