"""A document without end is refused before anybody reads it whole."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.core.errors import AppError
from brolly.schema.document import MAX_ENTRIES, parse_document


def refused(document: Any) -> AppError:
    with pytest.raises(AppError) as caught:
        parse_document(document)
    return caught.value


def test_more_entries_than_any_app_needs() -> None:
    many = {f"t{n}": {"columns": {}} for n in range(MAX_ENTRIES)}
    assert f"more than {MAX_ENTRIES} entries" in refused({"tables": many}).message


def test_a_thousand_mistakes_are_answered_with_the_first_hundred() -> None:
    columns = {f"c{n}": {"type": "txet"} for n in range(1000)}
    error = refused({"tables": {"t": {"columns": columns}}})
    assert "tables.t.columns.c0" in error.message
    assert len(str(error.details)) < 60_000


def test_fifty_full_tables_are_not_too_many() -> None:
    columns = {f"c{n}": {"type": "text", "nullable": False, "default": "''"} for n in range(60)}
    tables = {f"t{n}": {"columns": columns} for n in range(50)}
    assert len(parse_document({"tables": tables}).tables) == 50
