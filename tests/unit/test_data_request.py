"""The grammar of filters, lists, order and columns."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brolly.core.errors import AppError
from brolly.data.request import (
    OPERATORS,
    Filter,
    Order,
    is_storable,
    parse_filters,
    parse_list,
    parse_order,
    parse_read,
    parse_select,
)


def one(text: Any) -> Filter:
    return parse_filters([("c", text)])[0]


@pytest.mark.parametrize(
    ("text", "operator", "value", "negated"),
    [
        ("eq.open", "eq", "open", False),
        ("eq.", "eq", "", False),
        ("eq.a.b.c", "eq", "a.b.c", False),
        ("eq.not.x", "eq", "not.x", False),
        ("not.eq.1", "eq", "1", True),
        ("not.is.null", "is", "null", True),
        ("gte.2026-01-01T00:00:00.000Z", "gte", "2026-01-01T00:00:00.000Z", False),
        ("like.%a_%", "like", "%a_%", False),
        ("in.(a,b)", "in", ("a", "b"), False),
        ("not.in.(1)", "in", ("1",), True),
        ("fts.two words", "fts", "two words", False),
        ("eq.'; drop table t; --", "eq", "'; drop table t; --", False),
    ],
)
def test_a_filter_is_operator_and_value(text: str, operator: str, value: Any, negated: bool) -> None:
    assert one(text) == Filter("c", operator, value, negated)


def test_every_operator_is_read() -> None:
    for operator in OPERATORS:
        value = {"is": "null", "in": "(1)"}.get(operator, "x")
        assert one(f"{operator}.{value}").operator == operator


@pytest.mark.parametrize(
    "text",
    [
        *("open", "", "=.1", "EQ.1", "eq", "is.NULL", "is.nothing", "is.", "not.open", "not.not.eq.1", "in.a,b"),
        *("in.(a", "in.", "in.(", "in.(a,)", "in.(,a)", 'in.("a)', 'in.("a"b)', 'in.(a"b)', "eq.\0", "eq.\ud800"),
        *(5, 1.5, True, None, [], {}),
    ],
)
def test_what_cannot_be_read_is_refused(text: Any) -> None:
    with pytest.raises(AppError) as refused:
        one(text)
    assert refused.value.code == "VALIDATION_INVALID_SCHEMA"
    assert refused.value.details["invalidFilters"][0].startswith("c: ")
    refused.value.details["invalidFilters"][0].encode()


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(AppError) as refused:
        parse_filters([("a", "1"), ("b", "eq.1"), ("c", "is.x"), ("d", "approx.1")])
    wrong = refused.value.details["invalidFilters"]
    assert [w.split(":")[0] for w in wrong] == ["a", "c", "d"]
    assert 'did you mean "eq.1"?' in wrong[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("()", ()),
        ("( )", ()),
        ("(a, b ,c)", ("a", "b", "c")),
        ('(a,"b,c",d)', ("a", "b,c", "d")),
        ('("")', ("",)),
        (r'("say \"hi\"","\\")', ('say "hi"', "\\")),
        ('( "x" , y )', ("x", "y")),
        ("(a b,(c))", ("a b", "(c)")),
        ('("line\nbreak")', ("line\nbreak",)),
    ],
)
def test_a_list_keeps_its_values(text: str, values: tuple[str, ...]) -> None:
    assert parse_list(text) == values


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.lists(st.text()))
def test_quoted_values_survive(values: list[str]) -> None:
    assert parse_list(f"({','.join(map(quoted, values))})") == tuple(values)


@given(st.text())
def test_any_list_text_is_read_or_refused(text: str) -> None:
    with suppress(AppError):
        assert isinstance(one(f"in.{text}").value, tuple)


@given(st.text())
def test_storable_is_what_utf8_and_postgres_carry(text: str) -> None:
    assert is_storable(text) is ("\0" not in text)  # hypothesis makes no surrogates here
    assert not is_storable(text + "\ud800")


def test_select_is_a_comma_list() -> None:
    assert parse_select("id, title ,id") == ("id", "title")
    assert parse_select("") == parse_select(" ") == parse_select("*") == parse_select("id,*") == ()
    with pytest.raises(AppError):
        parse_select("id,,title")


def test_order_is_a_comma_list() -> None:
    assert parse_order("a, b.desc,c.asc.nullsfirst,d.nullslast") == (
        Order("a"),
        Order("b", True),
        Order("c", False, "first"),
        Order("d", False, "last"),
    )
    assert parse_order("") == ()


@pytest.mark.parametrize("text", ["a.down", "a.asc.desc", "a.nullsfirst.nullslast", ",", "a,", ".desc", "a.desc.x"])
def test_a_wrong_order_is_refused(text: str) -> None:
    with pytest.raises(AppError) as refused:
        parse_order(text)
    assert refused.value.code == "VALIDATION_INVALID_SCHEMA"


def test_a_request_has_a_page() -> None:
    request = parse_read("t", filters=[("a", "gt.1"), ("a", "lt.9")], limit=5, offset=10)
    assert (request.limit, request.offset) == (5, 10)
    assert [f.operator for f in request.filters] == ["gt", "lt"]
