"""Filters over a chunk's metadata: equal as containment has it, ranges, lists, and their combinations.

``{"team": "a"}`` is containment, which the index answers, as deep as the value goes. An object whose keys begin with
``$`` compares the value at its place: ``{"year": {"$gte": 2020, "$lt": 2024}, "tag": {"$in": ["x", "y"]}}``. A value
that is a list matches when one of its elements does. What is compared has to be of the same type: texts with texts,
by code point, so that ISO dates keep their order; numbers with numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from brolly.core.errors import AppError

MOST_CONDITIONS = 250
DEEPEST = 8
LONGEST_LIST = 100

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_LISTS = ("$in", "$nin")
_GROUPS = ("$and", "$or")
OPERATORS = ("$eq", "$ne", *_ORDER, *_LISTS, "$exists")
_HINT = "Repeat rag_query with a filter as the page of rag_query shows; butterbase_docs has it."


@dataclass
class Values:
    """What the statement binds, in the order of its ``$n``."""

    bound: list[Any] = field(default_factory=list[Any])

    def add(self, value: Any, kind: str = "") -> str:
        """The place of the value in the statement."""
        self.bound.append(value)
        return f"${len(self.bound)}" + (f"::{kind}" if kind else "")


def condition(filters: Mapping[str, Any], values: Values, column: str = "metadata") -> str:
    """The filter as a condition in SQL; every value in it is bound."""
    try:
        return _Reading(values, column).group(filters, (), 0)
    except RecursionError:
        raise _wrong(f"A filter is at most {DEEPEST} deep.") from None


class _Reading:
    """One filter on its way into SQL."""

    def __init__(self, values: Values, column: str) -> None:
        self._values = values
        self._column = column
        self._count = 0

    def group(self, filters: Mapping[str, Any], path: tuple[str, ...], depth: int) -> str:
        """All of an object's keys together."""
        if depth > DEEPEST:
            raise _wrong(f"A filter is at most {DEEPEST} deep.")
        plain: dict[str, Any] = {}
        found: list[str] = []
        for key, value in filters.items():
            here = (*path, key)
            if key in _GROUPS:
                found.append(self._several(key, value, path, depth))
            elif key == "$not":
                found.append(f"not coalesce({self.group(_object(key, value), path, depth + 1)}, false)")
            elif key.startswith("$"):
                found.append(self._operator(key, value, path))
            elif _has_operators(value):
                found.append(self.group(cast("dict[str, Any]", value), here, depth + 1))
            else:
                plain[key] = value
        if plain:
            found.append(self._contains(path, plain))
        return "(" + (" and ".join(found) or "true") + ")"

    def _several(self, key: str, value: Any, path: tuple[str, ...], depth: int) -> str:
        parts = _list(key, value)
        if not parts:
            raise _wrong(f"{key} takes a list with at least one filter.")
        word = " and " if key == "$and" else " or "
        return "(" + word.join(self.group(_object(key, part), path, depth + 1) for part in parts) + ")"

    def _operator(self, key: str, value: Any, path: tuple[str, ...]) -> str:
        if key not in OPERATORS:
            raise _wrong(f"There is no operator {key[:40]}; there are {', '.join((*OPERATORS, *_GROUPS, '$not'))}.")
        if not path:
            raise _wrong(f'{key} stands inside the name that it is about, as in {{"year": {{"{key}": …}}}}.')
        if key in _ORDER:
            return self._compared(key, value, path)
        if key == "$exists":
            return self._exists(value, path)
        options = _list(key, value) if key in _LISTS else [value]
        # Any of them, alone or as an element of a list; each is containment, which the index answers.
        either = [self._contains(path[:-1], {path[-1]: form}) for one in options for form in _forms(one)]
        any_of = "(" + (" or ".join(either) or "false") + ")"
        return f"not {any_of}" if key in ("$ne", "$nin") else any_of

    def _exists(self, value: Any, path: tuple[str, ...]) -> str:
        if not isinstance(value, bool):
            raise _wrong("$exists takes true or false.")
        self._counted()
        return f"({self._at(path)} is {'not ' if value else ''}null)"

    def _compared(self, key: str, value: Any, path: tuple[str, ...]) -> str:
        self._counted()
        at = self._at(path)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _wrong(f"{key} takes a number or a text.")
        each = f"jsonb_array_elements(case jsonb_typeof({at}) when 'array' then {at} else jsonb_build_array({at}) end)"
        if isinstance(value, str):
            _check_text(value)
            bound = self._values.add(value, "text")
            holds = f"jsonb_typeof(v) = 'string' and v #>> '{{}}' collate \"C\" {_ORDER[key]} {bound}"
        else:
            bound = self._values.add(_json(value), "text::jsonb")
            holds = f"jsonb_typeof(v) = 'number' and v {_ORDER[key]} {bound}"
        return f"({at} is not null and exists (select from {each} e(v) where {holds}))"

    def _at(self, path: tuple[str, ...]) -> str:
        for name in path:
            _check_text(name)
        return f"({self._column} #> {self._values.add(list(path), 'text[]')})"

    def _contains(self, path: tuple[str, ...], plain: Mapping[str, Any]) -> str:
        self._counted()
        whole: Any = plain
        for name in reversed(path):
            whole = {name: whole}
        text = _json(whole)
        _check_text(text)
        return f"{self._column} @> {self._values.add(text, 'text::jsonb')}"

    def _counted(self) -> None:
        self._count += 1
        if self._count > MOST_CONDITIONS:
            raise _wrong(f"A filter has at most {MOST_CONDITIONS} conditions; each value of $in counts twice.")


def _forms(value: Any) -> tuple[Any, ...]:
    """A value as it may stand in metadata: alone, and as an element of a list."""
    return (value,) if isinstance(value, list | dict) else (value, [value])  # pyright: ignore[reportUnknownVariableType]


def _has_operators(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return any(key.startswith("$") or _has_operators(inner) for key, inner in cast("dict[str, Any]", value).items())


def _object(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{key} takes filters, which are objects.")
    return cast("dict[str, Any]", value)


def _list(key: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{key} takes a list.")
    found = cast("list[Any]", value)
    if len(found) > LONGEST_LIST:
        raise _wrong(f"{key} takes at most {LONGEST_LIST} values.")
    return found


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise _wrong("The filter holds a number that JSON has not, or is too deep.") from None


def _check_text(text: str) -> None:
    if "\0" in text or "\\u0000" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise _wrong("The filter holds a character that the database cannot hold.")


def _wrong(message: str) -> AppError:
    return AppError("VALIDATION_INVALID_SCHEMA", message, remediation=_HINT)
