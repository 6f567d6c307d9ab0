"""The grammar of the REST API's texts: fields, filters, groups, order; after PostgREST's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from brolly.data.request import (
    Filter,
    FilterSyntaxError,
    Group,
    Order,
    is_storable,
    parse_list,
    shown,
)

COMPARISONS = ("eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch", "isdistinct")
QUANTIFIED = ("eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch")
WORDS = ("fts", "plfts", "phfts", "wfts")
RANGES = ("sl", "sr", "nxr", "nxl", "adj")
OPERATORS = (*COMPARISONS, "is", "in", "cs", "cd", "ov", *RANGES, *WORDS)
IS_VALUES = ("null", "not_null", "true", "false", "unknown")
MAX_DEPTH = 8
MAX_CONDITIONS = 200

_OPERATOR = re.compile(r"([a-z]+)(?:\(([^()]*)\))?")
_STEP = re.compile(r'(->>?)(?:"((?:[^"\\]|\\.)*)"|((?:[^->",.()\[\]{}: ]|-(?!>))+))')
_PLAIN = re.compile(r'[^",.:()!*>\-](?:[^",.:()!>-]|-(?!>))*')


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a place in its JSON."""

    column: str
    path: tuple[str, ...] = ()
    as_text: bool = False


class Reader:
    """A text and how much of it is read."""

    def __init__(self, text: str) -> None:
        if not is_storable(text):
            raise FilterSyntaxError("it holds a character that Postgres cannot store (zero byte or half a surrogate)")
        self.text, self.at = text, 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.text)

    @property
    def rest(self) -> str:
        return shown(self.text[self.at :]) or "the end"

    def take(self, token: str) -> bool:
        """Read the token if it comes next."""
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def need(self, token: str) -> None:
        """Read the token, which has to come next."""
        if not self.take(token):
            raise FilterSyntaxError(f"expected {token!r} before {self.rest!r}")

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read what the pattern finds here."""
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def spaces(self) -> None:
        """Skip spaces."""
        while not self.done and self.text[self.at].isspace():
            self.at += 1

    def quoted(self) -> str:
        """A text in double quotes; a backslash takes the next character as it is."""
        self.need('"')
        parts: list[str] = []
        while not self.done:
            char = self.text[self.at]
            self.at += 1
            if char == '"':
                return "".join(parts)
            if char == "\\":
                char = self.text[self.at : self.at + 1]
                self.at += 1
            parts.append(char)
        raise FilterSyntaxError("a double quote is not closed")

    def name(self) -> str:
        """A name, in double quotes where it holds other than letters, digits, ``_``, ``$``, ``-`` and spaces."""
        if self.text.startswith('"', self.at):
            return self.quoted()
        found = self.match(_PLAIN)
        if found is None or not found.group().strip():
            raise FilterSyntaxError(f"expected a name before {self.rest!r}")
        return found.group().strip()

    def field(self) -> Field:
        """``column``, ``column->key->0`` or ``column->>key``."""
        column, path, as_text = self.name(), list[str](), False
        while not as_text and (step := self.match(_STEP)):
            arrow, quoted, plain = step.groups()
            path.append(re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain)
            as_text = arrow == "->>"
        return Field(column, tuple(path), as_text)


def is_group(name: str) -> bool:
    """Whether the parameter of that name holds a group of conditions."""
    return name.removeprefix("not.") in ("and", "or")


def parse_group(name: str, text: str) -> Group:
    """The parameter ``and=(…)``, ``or=(…)``, ``not.and=(…)`` or ``not.or=(…)``."""
    reader = Reader(text.strip())
    budget = [MAX_CONDITIONS]
    group = _group(reader, name.removeprefix("not."), name.startswith("not."), 1, budget)
    if not reader.done:
        raise FilterSyntaxError(f"{reader.rest!r} follows the last parenthesis")
    return group


def _group(reader: Reader, operator: str, negated: bool, depth: int, budget: list[int]) -> Group:
    if depth > MAX_DEPTH:
        raise FilterSyntaxError(f"groups lie in each other deeper than {MAX_DEPTH}")
    reader.need("(")
    parts: list[Filter | Group] = []
    while True:
        reader.spaces()
        parts.append(_part(reader, depth, budget))
        reader.spaces()
        if not reader.take(","):
            break
    reader.need(")")
    return Group(cast(Literal["and", "or"], operator), tuple(parts), negated)


_GROUP_NAME = re.compile(r"(not\.)?(and|or)(?=\()")


def _part(reader: Reader, depth: int, budget: list[int]) -> Filter | Group:
    budget[0] -= 1
    if budget[0] < 0:
        raise FilterSyntaxError(f"a group holds at most {MAX_CONDITIONS} conditions")
    inner = reader.match(_GROUP_NAME)
    if inner:
        return _group(reader, inner.group(2), inner.group(1) is not None, depth + 1, budget)
    field = reader.field()
    reader.need(".")
    negated = reader.take("not.")
    operator, modifier = _operator(reader)
    reader.need(".")
    return _filter(field, operator, modifier, _grouped_value(reader), negated)


def _operator(reader: Reader) -> tuple[str, str | None]:
    found = reader.match(_OPERATOR)
    if found is None:
        raise FilterSyntaxError(f"expected an operator before {reader.rest!r}")
    if found.group(1) not in OPERATORS:
        raise FilterSyntaxError(f"there is no operator {shown(found.group(1))}")
    return found.group(1), found.group(2)


_WORD = re.compile(r"\s*(?:'(?:[^']|'')+'|[^\s&|!()<>:']+)(?::[*A-Da-d]+)?\s*")
_BETWEEN = re.compile(r"[&|]|<(?:-|\d{1,5})>")


def is_word_query(text: str) -> bool:
    """Whether the words are joined by ``&``, ``|``, ``!``, ``<->`` and parentheses, as ``to_tsquery`` reads them."""
    reader, open_ones = Reader(text), 0
    while True:
        reader.spaces()
        while reader.take("!") or reader.take("("):
            open_ones += reader.text[reader.at - 1] == "("
            reader.spaces()
        if not reader.match(_WORD):
            return False
        while open_ones and reader.take(")"):
            open_ones -= 1
            reader.spaces()
        if reader.done:
            return open_ones == 0
        if not reader.match(_BETWEEN):
            return False


# In a pattern * stands for %, which a URL would have to escape; \\* is the character itself.
_STAR = re.compile(r"\\.|\*", re.DOTALL)
_BRACKETS = {"(": ")", "{": "}", "[": "]"}


def _grouped_value(reader: Reader) -> str:
    """A value inside a group: it ends at a comma or parenthesis outside of quotes and brackets."""
    if reader.text.startswith('"', reader.at):
        return reader.quoted()
    start, closing = reader.at, list[str]()
    while not reader.done:
        char = reader.text[reader.at]
        if char == '"':
            reader.quoted()
            continue
        if not closing and char in ",)":
            break
        if closing and char == closing[-1]:
            closing.pop()
        elif char in _BRACKETS:
            closing.append(_BRACKETS[char])
        reader.at += 1
    if closing:
        raise FilterSyntaxError(f"{closing[-1]!r} is missing")
    return reader.text[start : reader.at].strip()


def parse_filter(field: Field, text: str) -> Filter:
    """The condition on a field from ``op.value``, ``not.op.value`` or ``op(any).{a,b}``."""
    reader = Reader(text)
    negated = reader.take("not.")
    found = _OPERATOR.match(text, reader.at)
    if found is None or text[found.end() : found.end() + 1] != ".":
        raise FilterSyntaxError(f'{shown(text)} is not "op.value"; did you mean "eq.{shown(text)}"?')
    operator, modifier = _operator(reader)
    reader.need(".")
    return _filter(field, operator, modifier, text[reader.at :], negated)


def _filter(field: Field, operator: str, modifier: str | None, value: str, negated: bool) -> Filter:
    quantifier: Literal["any", "all"] | None = None
    language: str | None = None
    if modifier is not None and operator in WORDS:
        language = modifier
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", modifier):
            raise FilterSyntaxError(f"{shown(modifier)} is not the name of a language")
    elif modifier is not None:
        if modifier not in ("any", "all") or operator not in QUANTIFIED:
            raise FilterSyntaxError(f"{operator}({shown(modifier)}) does not exist; any and all go with comparisons")
        quantifier = modifier
    if operator == "is" and value not in IS_VALUES:
        raise FilterSyntaxError("is takes null, not_null, true, false or unknown")
    if value == "not_null" and operator == "is":
        value, negated = "null", not negated
    if operator in ("like", "ilike"):
        value = _STAR.sub(lambda found: "%" if found.group() == "*" else found.group(), value)
    if operator == "fts" and is_word_query(value):
        operator = "rawfts"
    listed = parse_list(value) if operator == "in" else value
    return Filter(field.column, operator, listed, negated, field.path, field.as_text, quantifier, language)


def parse_field(text: str) -> Field:
    """A whole text that is one field."""
    reader = Reader(text)
    field = reader.field()
    if not reader.done:
        raise FilterSyntaxError(f"{reader.rest!r} does not belong in a name; quote names that hold dots")
    return field


def parse_order(text: str) -> tuple[Order, ...]:
    """The order, from ``col.desc.nullslast,data->>key,related(col)``."""
    reader, found = Reader(text), list[Order]()
    while True:
        reader.spaces()
        field, related = reader.field(), None
        if not field.path and reader.take("("):
            field, related = reader.field(), field.column
            reader.need(")")
        words: list[str] = []
        while reader.take("."):
            words.append(reader.name())
        reader.spaces()
        found.append(replace(_order(field, words), related=related))
        if reader.done:
            return tuple(found)
        reader.need(",")


def _order(field: Field, words: list[str]) -> Order:
    directions = [w for w in words if w in ("asc", "desc")]
    nulls = [w for w in words if w in ("nullsfirst", "nullslast")]
    if len(directions) + len(nulls) < len(words) or len(directions) > 1 or len(nulls) > 1:
        raise FilterSyntaxError(
            f"{shown('.'.join(words))} does not follow a column; .asc, .desc, .nullsfirst and .nullslast do"
        )
    where: Literal["first", "last"] | None = None
    if nulls:
        where = "first" if nulls[0] == "nullsfirst" else "last"
    return Order(field.column, directions == ["desc"], where, field.path, field.as_text)
