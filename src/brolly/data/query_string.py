"""A REST request's query parameters and headers as a request for rows. Judged by syntax alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from brolly.core.errors import AppError
from brolly.data.grammar import (
    MAX_CONDITIONS,
    OPERATORS,
    Field,
    Reader,
    is_group,
    parse_filter,
    parse_group,
    parse_order,
)
from brolly.data.request import Embed, Filter, FilterSyntaxError, Group, Item, ReadRequest, shown
from brolly.data.selection import MAX_DEPTH, parse_selection

MAX_ROWS = 1000
"""Most rows of one page, and of one embedded table; also how many there are when no limit is given."""

MAX_STORED = 5000
"""Most rows of one request to store rows."""
MAX_SAID = 20
"""Most names or filters that an error repeats."""

PARAMETERS = ("select", "order", "limit", "offset", "cursor", "on_conflict", "columns")
_INSIDE = ("order", "limit", "offset")
_LONGEST = 63
_REMEDY = "Correct the request as the message says; butterbase_docs with topic rest has the grammar."


@dataclass(frozen=True, slots=True)
class Preferences:
    """What ``Prefer`` asks for."""

    count: str | None = None
    returning: str | None = None
    resolution: str | None = None
    most: int | None = None
    """How many rows a write may reach; more undo it."""
    single: bool = False
    """Whether there has to be exactly one row (said in ``Accept``, as the next)."""
    stripped: bool = False
    """Whether keys whose value is null are left out."""


@dataclass(frozen=True, slots=True)
class RowsQuery:
    """A request for rows, with what is no business of the rows themselves.

    ``problems`` are filters that cannot be read; the plan adds its own, so that one error names all.
    ``given`` are the names of the parameters that hold more than filters.
    """

    request: ReadRequest
    cursor: str | None = None
    on_conflict: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    preferences: Preferences = Preferences()


@dataclass
class _Found:
    """What is asked of one table, the outer or an embedded one."""

    words: dict[str, str] = field(default_factory=dict[str, str])
    terms: list[Filter | Group] = field(default_factory=list[Filter | Group])
    used: bool = False


def parse_query(table: str, pairs: Iterable[tuple[str, str]], prefer: str = "", rows: str = "") -> RowsQuery:
    """The request of the query string's pairs and the headers ``Prefer`` and ``Range``."""
    found: dict[tuple[str, ...], _Found] = {(): _Found()}
    problems: list[str] = []
    ignored: list[str] = []
    for name, value in pairs:
        if value == "":
            ignored.append(name)
            continue
        try:
            _take(found, name, value)
        except FilterSyntaxError as error:
            problems.append(f"{shown(name)}: {error}{_nearest(name)}")
    if sum(len(one.terms) for one in found.values()) > MAX_CONDITIONS:
        raise refuse(f"There are more than {MAX_CONDITIONS} filters.")
    top = found[()]
    request = _dressed(ReadRequest(table, _selection(top.words.get("select", "")), limit=MAX_ROWS), (), found, problems)
    if rows and not {"limit", "offset", "cursor"} & top.words.keys():
        request = _ranged(request, rows)
    problems += [
        f"{shown('.'.join(path), 200)}: select embeds no such table" for path, one in found.items() if not one.used
    ]
    conflict = top.words.get("on_conflict", "")
    return RowsQuery(
        request=request,
        cursor=top.words.get("cursor"),
        on_conflict=tuple(part.strip() for part in conflict.split(",")) if conflict else (),
        problems=tuple(problems),
        ignored=tuple(ignored),
        given=frozenset(top.words),
        preferences=parse_prefer(prefer),
    )


def refuse(message: str, **details: Any) -> AppError:
    """The error for a query string that cannot be read."""
    return AppError("VALIDATION_INVALID_SCHEMA", message, remediation=_REMEDY, details=details or None)


def too_many_rows() -> AppError:
    """The error for more rows than one request may store."""
    return AppError(
        "REQUEST_TOO_LARGE",
        f"One request stores at most {MAX_STORED} rows.",
        remediation="Send the rows in several requests; butterbase_docs, topic rest, has the limits.",
    )


def invalid_filters(wrong: Iterable[str]) -> AppError:
    """The error that names all filters that are wrong."""
    said = list(wrong)
    return refuse("; ".join(said[:5]) + ".", invalidFilters=said[:MAX_SAID], operators=list(OPERATORS))


def _nearest(name: str) -> str:
    if len(name) > _LONGEST:
        return ""
    near = difflib.get_close_matches(name, [w for w in PARAMETERS if w != name], 1, 0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def _take(found: dict[tuple[str, ...], _Found], name: str, value: str) -> None:
    path, last = _key(name)
    one = found.setdefault(path, _Found())
    words = _INSIDE if path else PARAMETERS
    if isinstance(last, str) and last in words:
        if last in one.words:
            raise refuse(f"Given more than once: {shown(name)}.")
        one.words[last] = value
    elif isinstance(last, str):
        one.terms.append(parse_group(last, value))
    else:
        one.terms.append(parse_filter(last, value))


def _key(name: str) -> tuple[tuple[str, ...], str | Field]:
    """Where the parameter belongs, and its own name: a word, a group, or a field."""
    if name in PARAMETERS or is_group(name):
        return (), name
    reader, parts = Reader(name), list[Field]()
    while True:
        start = reader.at
        if reader.text[start:] in _INSIDE or is_group(reader.text[start:]):
            return tuple(p.column for p in parts), reader.text[start:]
        if len(parts) == MAX_DEPTH:
            raise FilterSyntaxError(f"a name has at most {MAX_DEPTH} parts")
        parts.append(reader.field())
        if reader.done:
            break
        reader.need(".")
    if any(part.path for part in parts[:-1]):
        raise FilterSyntaxError("-> stands in the last part of a name")
    return tuple(p.column for p in parts[:-1]), parts[-1]


def _selection(text: str) -> tuple[Item | Embed, ...]:
    try:
        return parse_selection(text, MAX_ROWS)
    except FilterSyntaxError as error:
        raise refuse(f"select cannot be read: {error}.", part=shown(text, 200)) from None


def _dressed(
    request: ReadRequest, path: tuple[str, ...], found: dict[tuple[str, ...], _Found], problems: list[str]
) -> ReadRequest:
    """The request with the filters, order and limits that are written for it."""
    one = found.get(path, _Found())
    one.used = True
    select = tuple(
        replace(item, request=_dressed(item.request, (*path, item.name), found, problems))
        if isinstance(item, Embed)
        else item
        for item in request.select
    )
    try:
        order = parse_order(one.words["order"]) if "order" in one.words else ()
    except FilterSyntaxError as error:
        raise refuse(f"order cannot be read: {error}.") from None
    limit = _number("limit", one.words.get("limit"), MAX_ROWS)
    offset = _number("offset", one.words.get("offset"), 0)
    return replace(
        request,
        select=select,
        filters=tuple(one.terms),
        order=order,
        limit=min(limit, MAX_ROWS),
        offset=offset,
        limited="limit" in one.words,
    )


def _number(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise refuse(f"{name} takes a whole number.")
    return int(text)


_NUMBER = re.compile(r"[0-9]{1,9}")
_RANGE = re.compile(r"(?:items=)?([0-9]{1,15})-([0-9]{1,15})?")


def _ranged(request: ReadRequest, rows: str) -> ReadRequest:
    """The header ``Range: 0-9``; other units, such as bytes, are not ours and count as absent."""
    match = _RANGE.fullmatch(rows.strip())
    if match is None:
        return request
    first = int(match.group(1))
    last = int(match.group(2)) if match.group(2) else first + MAX_ROWS - 1
    if last < first:
        raise refuse("Range ends before it begins.")
    return replace(request, offset=first, limit=min(last - first + 1, MAX_ROWS), limited=match.group(2) is not None)


_PREFERENCES: Mapping[str, tuple[str, ...]] = {
    "count": ("exact", "planned", "estimated"),
    "return": ("representation", "minimal", "headers-only"),
    "resolution": ("merge-duplicates", "ignore-duplicates"),
}


def parse_prefer(text: str) -> Preferences:
    """The preferences that we know; as RFC 7240 has it, others are passed over."""
    found: dict[str, str] = {}
    for part in re.split(r"[,;]", text):
        name, _, value = part.strip().partition("=")
        value = value.strip().strip('"')
        if value in _PREFERENCES.get(name.strip().lower(), ()) or (name == "max-affected" and _NUMBER.fullmatch(value)):
            found.setdefault(name.strip().lower(), value)
    most = int(found["max-affected"]) if "max-affected" in found else None
    return Preferences(found.get("count"), found.get("return"), found.get("resolution"), most)


def not_single(count: int) -> AppError:
    """The error for another number of rows than one, where one was asked for."""
    reason = f"The result contains {count} rows"
    return AppError("RESULT_NOT_SINGLE", f"{reason}, and exactly one was asked for.", details={"reason": reason})
