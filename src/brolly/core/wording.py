"""What pydantic finds, in the words of those who write JSON: no Python types, no classes of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TIME = "must be a time with a zone, such as 2026-01-31T12:00:00Z"

_FIXED: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dataclass_type": "must be an object",
    "list_type": "must be an array",
    "tuple_type": "must be an array",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "timezone_aware": _TIME,
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "datetime_object_invalid": _TIME,
}

_MEASURED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "too_long": lambda c: f"has {_many(c['actual_length'])}, at most {c['max_length']}",
    "too_short": lambda c: f"has {_many(c['actual_length'])}, at least {c['min_length']}",
    "string_too_long": lambda c: f"has more than {c['max_length']} characters",
    "string_too_short": lambda c: (
        "must not be empty" if c["min_length"] == 1 else f"has fewer than {c['min_length']} characters"
    ),
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "greater_than": lambda c: f"must be more than {c['gt']}",
    "less_than": lambda c: f"must be less than {c['lt']}",
}

# What callers write by habit, by the parameter's name.
_HABITS: Mapping[tuple[str, str | None], str] = {
    ("as_role", "service"): "leave as_role out to act as service",
    ("select", None): "write the columns as id,title",
    ("order", None): "write the columns as created_at.desc,id",
}


def _many(count: Any) -> str:
    return f"{count} item" if count == 1 else f"{count if count is not None else 'too many'} items"


def in_json(error: Mapping[str, Any]) -> str:
    """What one entry of ``ValidationError.errors()`` says is wrong; its place is for the reader to add."""
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in _MEASURED and context:
        message = _MEASURED[kind](context)
    else:
        message = _FIXED.get(kind) or _translated(str(error["msg"]))
    value, where = error.get("input"), error["loc"][-1] if error["loc"] else ""
    # Where the value is no text at all, the habit stands under None.
    habit = _HABITS.get((str(where), value if isinstance(value, str) else None))
    return f"{message}; {habit}" if habit else message


def _translated(message: str) -> str:
    """The general part, for messages that have no wording of their own."""
    message = message.removeprefix("Value error, ")
    message = re.sub(r" or (an )?instance of \w+", "", message)
    return re.sub(r"^(Input|Value) should be", "must be", message).replace("a valid", "a")


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in a mark of its own."""
    return text if text.endswith((".", "?", "!")) else text + "."
