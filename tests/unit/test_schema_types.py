"""Column types have one spelling each, and widen only where nothing is lost."""

from __future__ import annotations

import re

import pytest

from brolly.schema.types import ColumnType, comparable, parse_type, read_type, widens


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("int", "integer"),
        ("INT4", "integer"),
        ("int8", "bigint"),
        ("int2", "smallint"),
        ("bool", "boolean"),
        ("decimal", "numeric"),
        ("decimal(5)", "numeric(5,0)"),
        ("numeric(10, 2)", "numeric(10,2)"),
        ("Numeric ( 10 ,2 )", "numeric(10,2)"),
        ("float4", "real"),
        ("float", "double precision"),
        ("DOUBLE  PRECISION", "double precision"),
        ("char", "char(1)"),
        ("character(3)", "char(3)"),
        ("character varying(20)", "varchar(20)"),
        ("timestamp with time zone", "timestamptz"),
        ("timestamp without time zone", "timestamp"),
        ("time with time zone", "timetz"),
        ("int4[]", "integer[]"),
        ("double precision [ ]", "double precision[]"),
        ("varchar(10)[]", "varchar(10)[]"),
        ("vector(3)", "vector(3)"),
        ("serial4", "serial"),
    ],
)
def test_one_spelling(text: str, name: str) -> None:
    assert parse_type(text).name == name
    assert parse_type(name).name == name


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("string", "did you mean text?"),
        ("datetime", "did you mean timestamptz?"),
        ("uuidd", "did you mean uuid?"),
        ("tsrange", "use one of text"),
        ("int(11)", "takes no number"),
        ("varchar(0)", "1 to 10485760"),
        ("varchar(1,2)", "one number"),
        ("numeric(1001)", "1 to 1000"),
        ("serial[]", "integer[]"),
        ("text[][]", "is not a type"),
        ("text; drop table x", "is not a type"),
        ('text collate "C"', "is not a type"),
        ("intx", "is not a type"),
    ],
)
def test_what_is_no_type(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_type(text)


def test_what_the_tables_have_already_is_a_type() -> None:
    assert parse_type("mood", frozenset(["mood"])) == ColumnType("mood", opaque=True)
    assert read_type("timestamp(3) with time zone").opaque
    assert read_type("integer", serial=True).name == "serial"
    assert read_type("text", serial=True).name == "text"


@pytest.mark.parametrize(
    ("old", "new", "lossless"),
    [
        ("int", "bigint", True),
        ("bigint", "int", False),
        ("smallint", "numeric(5,0)", True),
        ("int", "numeric(10,2)", False),
        ("int", "numeric(12,2)", True),
        ("bigint", "numeric", True),
        ("bigint", "double precision", False),
        ("int", "double precision", True),
        ("int", "real", False),
        ("real", "double precision", True),
        ("varchar(5)", "varchar(6)", True),
        ("varchar(5)", "varchar(4)", False),
        ("varchar(5)", "varchar", True),
        ("varchar", "varchar(5)", False),
        ("varchar(5)", "text", True),
        ("text", "varchar", True),
        ("text", "varchar(5)", False),
        ("char(3)", "char(4)", True),
        ("numeric(10,2)", "numeric(12,2)", True),
        ("numeric(10,2)", "numeric(10,3)", False),
        ("numeric(10,2)", "numeric(11,3)", True),
        ("numeric", "numeric(10,2)", False),
        ("date", "timestamp", True),
        ("timestamp", "timestamptz", False),
        ("vector(3)", "vector(4)", False),
        ("vector(3)", "vector", True),
        ("text", "int", False),
        ("json", "jsonb", False),
        ("int[]", "bigint[]", True),
        ("int", "int[]", False),
    ],
)
def test_widening(old: str, new: str, lossless: bool) -> None:
    assert widens(parse_type(old), parse_type(new)) is lossless


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ("serial", "int", True),
        ("bigint", "int", True),
        ("uuid", "text", False),
        ("text", "varchar(5)", True),
        ("int", "int[]", False),
    ],
)
def test_what_a_foreign_key_may_join(one: str, other: str, fits: bool) -> None:
    assert comparable(parse_type(one), parse_type(other)) is fits
