"""Defaults are read by a grammar and written anew."""

from __future__ import annotations

import re

import pytest

from brolly.schema.defaults import parse_default, same_default
from brolly.schema.types import parse_type


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("NOW ( )", "now()"),
        ("'it''s'", "'it''s'"),
        ("'{}' :: JSONB", "'{}'::jsonb"),
        ("-1", "-1"),
        ("-1::int", "(-1)::integer"),
        ("1E3", "1e3"),
        ("True", "true"),
        ("interval '7 days'", "'7 days'::interval"),
        ("now() + interval '7 days'", "(now() + '7 days'::interval)"),
        ("1 + 2 * 3", "(1 + 2 * 3)"),
        ("(1 + 2) * 3", "((1 + 2) * 3)"),
        ("1--2", "(1 - -2)"),
        ("now() at time zone 'utc'", "(now() AT TIME ZONE 'utc')"),
        ("array['a','b']", "ARRAY['a', 'b']"),
        ("extract(epoch from now())::bigint", "EXTRACT(epoch FROM now())::bigint"),
        ("'x'::character varying(20)", "'x'::varchar(20)"),
        ("current_date", "CURRENT_DATE"),
        ("date_trunc('day', now())", "date_trunc('day', now())"),
    ],
)
def test_written_anew(text: str, sql: str) -> None:
    found = parse_default(text)
    assert found is not None
    assert found.sql == sql
    again = parse_default(found.sql)
    assert again is not None
    assert again.sql == sql


@pytest.mark.parametrize("text", ["NULL", "null::text", " Null "])
def test_null_is_none(text: str) -> None:
    assert parse_default(text) is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("draft", "'draft'"),
        ("now", "now()"),
        ("{}", "'{}'::jsonb"),
        ("uuid()", "gen_random_uuid"),
        ("gen_random_uid()", "gen_random_uuid"),
        ("pg_sleep(1)", "not allowed"),
        ("'a'::regclass", "known type"),
        ("'a'::serial", "cast"),
        ("1;", "not allowed"),
        ("'a", "not allowed"),
        ("E'a'", "not allowed"),
        ("٣", "not allowed"),
        ("(" * 30 + "1" + ")" * 30, "nested"),
        ("1" * 1001, "1000 are allowed"),
    ],
)
def test_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_default(text)


@pytest.mark.parametrize(
    ("wanted", "current", "column", "same"),
    [
        ("'draft'", "'draft'::text", "text", True),
        ("'draft'", "'draft'::character varying", "varchar(20)", True),
        ("-1", "'-1'::integer", "int", True),
        ("'{}'::jsonb", "'{}'::jsonb", "jsonb", True),
        ("now()", "now()", "timestamptz", True),
        ("'a'", "'b'::text", "text", False),
        # Postgres must be asked: one is cut to two characters.
        ("'abc'::varchar(2)", "'abc'::character varying", "varchar(20)", False),
        ("'1 week'", "'7 days'::interval", "interval", False),
        ("5", "nextval('x'::regclass)", "int", False),
    ],
)
def test_compared_at_sight(wanted: str, current: str, column: str, same: bool) -> None:
    default = parse_default(wanted)
    assert default is not None
    assert same_default(default, current, parse_type(column)) is same
