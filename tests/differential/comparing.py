"""Whether two servers' answers say the same."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d+)?)(Z|[+-]\d\d(?::\d\d)?)")


class Exact(str):
    """A number as it was written."""

    __slots__ = ()


def _place(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _point(text: str) -> datetime | None:
    found = _TIME.fullmatch(text)
    if not found:
        return None
    zone = "+00:00" if found[3] == "Z" else found[3] if ":" in found[3] else found[3] + ":00"
    when = datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").astimezone(UTC)
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


def plain(value: Any, ordered: frozenset[str], here: str = "") -> Any:
    """The value in the one form in which both servers' values are compared: numbers by value, whether they are texts
    or not, points in time to the millisecond, rows in the order that was asked for at that path, else in any."""
    if isinstance(value, dict):
        return {key: plain(part, ordered, f"{here}{key}.") for key, part in value.items()}
    if isinstance(value, list):
        parts = [plain(part, ordered, here) for part in value]
        rows = bool(parts) and all(isinstance(part, dict) for part in value)
        return sorted(parts, key=_place) if rows and f"{here}order" not in ordered else parts
    if isinstance(value, str):
        when = _point(value)
        if when is not None:
            return when.isoformat()
        try:
            number = Decimal(value)
            return str(number.normalize()) if number.is_finite() else value
        except InvalidOperation:
            return value
    return value


def body(answer: httpx.Response, ordered: frozenset[str]) -> Any:
    """The body, read exactly."""
    if answer.headers.get("content-type", "").startswith("text/csv"):
        return _csv(answer.text, ordered)
    if not answer.content:
        return None
    return plain(json.loads(answer.content, parse_float=Exact, parse_int=Exact), ordered)


def _csv(text: str, ordered: frozenset[str]) -> Any:
    head, *rows = [line or [""] for line in csv.reader(io.StringIO(text))] or [[""]]
    if not rows:
        return []  # PostgREST has no line of names then
    places = sorted(range(len(head)), key=lambda place: head[place])  # its related tables come in another order
    head, rows = [head[place] for place in places], [[row[place] for place in places] for row in rows]
    found = [[_cell(cell) for cell in row] for row in rows]
    return [head, *(found if "order" in ordered else sorted(found))]


def _cell(cell: str) -> str:
    """Booleans, points in time, JSON and arrays have other forms in Postgres's texts than in JSON."""
    if cell[:1] in ("{", "["):
        return "(JSON or an array)"
    if cell.startswith("\\\\"):
        cell = cell[1:]
    if re.match(r"\d{4}-\d\d-\d\d ", cell):
        cell = cell.replace(" ", "T", 1)
    return str(plain({"true": "t", "false": "f"}.get(cell, cell), frozenset()))
