"""The form that a column's value takes in answers, wherever it is answered."""

from __future__ import annotations

from brolly.pg.catalog import Column

INT8, NUMERIC, TIMESTAMPTZ = 20, 1700, 1184
EXACT = (INT8, NUMERIC)

# A point in time outside these years has no four-digit form; it keeps Postgres's own.
_FIRST, _LAST = "timestamptz '0001-01-01 00:00:00+00'", "timestamptz '9999-12-31 23:59:59.999999+00'"


def time_text(expression: str) -> str:
    """The point in time in UTC, with milliseconds."""
    utc = f"{expression} at time zone 'UTC'"
    return (
        f"case when {expression} between {_FIRST} and {_LAST} "
        f"""then to_char({utc}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') else ({utc})::text end"""
    )


def shown_value(column: Column, name: str) -> str:
    """bigint and numeric become texts, since a JSON number may lose digits; timestamptz becomes UTC with
    milliseconds. All other types go out as ``row_to_json`` has them."""
    if column.base_oid in EXACT:
        return f"{name}::text"
    if column.base_oid == TIMESTAMPTZ:
        return time_text(name)
    if column.element_oid in EXACT:
        return f"{name}::text[]"
    if column.element_oid == TIMESTAMPTZ:
        return f"case when {name} is not null then array(select {time_text('e')} from unnest({name}) e) end"
    return name
