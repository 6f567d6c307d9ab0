"""Rows as CSV, in and out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

from brolly.data.plan import JsonName
from brolly.data.query_string import MAX_STORED, refuse, too_many_rows
from brolly.data.response import compact


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) and not isinstance(name, JsonName) else compact(value)


def write(body: bytes, names: Sequence[str]) -> bytes:
    """The rows of a JSON array, with a line of names. null is an empty field, JSON stands as JSON."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(names)
    for row in json.loads(body):
        lines.writerow([_cell(row.get(name), name) for name in names])
    return text.getvalue().encode()


def read(raw: bytes) -> list[dict[str, Any]]:
    """The rows of a CSV text whose first line holds the names. ``NULL`` is null."""
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        lines = list(islice(reader, MAX_STORED + 2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise refuse(f"The body is not CSV: {str(error)[:200]}.") from None
    if len(lines) > MAX_STORED + 1:
        raise too_many_rows()
    names, *rows = lines or [[]]
    if len(set(names)) < len(names) or not all(names):
        raise refuse("The first line of the CSV must name each column once.")
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(names):
            raise refuse(f"Line {number} of the CSV has {len(row)} fields, the first line {len(names)}.")
        found.append({name: None if value == "NULL" else value for name, value in zip(names, row, strict=True)})
    return found
