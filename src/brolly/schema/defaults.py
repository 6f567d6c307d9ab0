"""Column defaults: read by a small grammar of literals and known functions, and written anew.

A default is never pasted. What is not in the grammar is refused, and what is accepted
goes into the statement as this module writes it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from brolly.schema.types import NUMERIC, TYPE_PATTERN, ColumnType, parse_type

MAX_LENGTH = 1000
_MAX_DEPTH = 20

# None of them has an effect, reads a table, takes a text as SQL or makes a long text of a short one.
FUNCTIONS = frozenset((
    "gen_random_uuid", "uuid_generate_v4", "uuidv4", "uuidv7", "now", "current_user_id", "clock_timestamp",
    "statement_timestamp", "transaction_timestamp", "random", "timezone", "date_trunc", "date_part", "md5",
    "lower", "upper", "floor", "ceil", "round", "trunc", "to_char", "left", "right", "substr", "coalesce",
))  # fmt: skip
_WORDS = {
    "true": "true",
    "false": "false",
    "null": "NULL",
    "current_timestamp": "CURRENT_TIMESTAMP",
    "current_date": "CURRENT_DATE",
    "current_time": "CURRENT_TIME",
    "localtimestamp": "LOCALTIMESTAMP",
    "localtime": "LOCALTIME",
}
_FIELDS = frozenset((
    "century", "day", "decade", "dow", "doy", "epoch", "hour", "isodow", "isoyear", "minute", "month",
    "quarter", "second", "week", "year",
))  # fmt: skip

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_STRING = re.compile(r"'(?:[^'\0]|'')*'")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"\|\||[-+*/]")
_TYPE = re.compile(TYPE_PATTERN, re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Default:
    """A default as it goes into SQL. ``core`` is the same without a cast around all of it,
    and ``cast`` that cast's type."""

    sql: str
    core: str
    cast: ColumnType | None = None


def parse_default(text: str) -> Default | None:
    """The default that a text means; None for NULL, which is the same as none.

    Raises ``ValueError`` that says what would be right.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, {MAX_LENGTH} are allowed")
    reader = _Reader(text)
    found = reader.expression(0)
    if not reader.done():
        raise ValueError(_not_allowed(text))
    return None if found.core == "NULL" else found


def _not_allowed(text: str) -> str:
    bare = text.strip()
    if re.fullmatch(r"[A-Za-z][\w .-]*", bare) and bare.lower() not in FUNCTIONS:
        return f"{bare} is not allowed; a text goes between single quotes: '{bare}'"
    if bare[:1] in ("{", "["):
        return f"a JSON default goes between single quotes: '{bare}'::jsonb"
    if bare.lower() in FUNCTIONS:
        return f"a function needs brackets: {bare}()"
    return (
        f"{text!r} is not allowed; use a number, 'text' in single quotes, true, false, a cast such as '{{}}'::jsonb, "
        "or a function such as now(), gen_random_uuid() or current_user_id()"
    )


class _Reader:
    """Recursive descent over the text; each method returns what it read, written canonically."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._skip()

    def done(self) -> bool:
        return self.at == len(self.text)

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
            self._skip()
        return match

    def _sign(self, sign: str) -> bool:
        if self.text.startswith(sign, self.at):
            self.at += len(sign)
            self._skip()
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._sign(sign):
            raise ValueError(_not_allowed(self.text))

    def _words(self, *words: str) -> bool:
        return self._take(re.compile(r"\s+".join(words) + r"(?![A-Za-z0-9_])", re.IGNORECASE)) is not None

    def expression(self, depth: int) -> Default:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        found = self._term(depth)
        parts = [found.sql]
        while True:
            if self._words("at", "time", "zone"):
                parts.append("AT TIME ZONE")
            elif operator := self._take(_OPERATOR):
                parts.append(operator.group())
            elif len(parts) == 1:
                return found
            else:
                break
            parts.append(self._term(depth).sql)
        # In brackets: CREATE TABLE takes no bare AT TIME ZONE.
        sql = f"({' '.join(parts)})"
        return Default(sql, sql)

    def _term(self, depth: int) -> Default:
        negative = self._sign("-")
        core = self._number(negative) or (None if negative else self._atom(depth))
        if core is None:
            raise ValueError(_not_allowed(self.text))
        sql, cast = core, None
        while self._sign("::"):
            core, cast = sql, self._type()
            # A cast binds closer than the sign.
            sql = f"{f'({sql})' if sql.startswith('-') else sql}::{cast.name}"
        return Default(sql, _number_in(core, cast), cast)

    def _number(self, negative: bool) -> str | None:
        match = self._take(_NUMBER)
        if match is None:
            return None
        if _WORD.match(self.text, match.end()):
            raise ValueError(_not_allowed(self.text))
        return ("-" if negative else "") + match.group().lower()

    def _type(self) -> ColumnType:
        match = self._take(_TYPE)
        if match is None:
            raise ValueError(f"the cast in {self.text!r} is not to a known type")
        return self._castable(match)

    def _castable(self, match: re.Match[str]) -> ColumnType:
        found = parse_type(match.group())
        if found.serial:
            raise ValueError(f"{found.name} is not a type to cast to")
        return found

    def _atom(self, depth: int) -> str | None:
        if text := self._take(_STRING):
            return text.group()
        if self._sign("("):
            inner = self.expression(depth + 1)
            self._expect(")")
            return inner.sql if inner.sql.startswith("(") else f"({inner.sql})"
        start = self.at
        if typed := self._take(_TYPE):
            if text := self._take(_STRING):
                return f"{text.group()}::{self._castable(typed).name}"
            self.at = start
        word = self._take(_WORD)
        return None if word is None else self._after_word(word.group().lower(), depth)

    def _after_word(self, word: str, depth: int) -> str:
        if word == "array" and self._sign("["):
            return f"ARRAY[{', '.join(self._list(']', depth))}]"
        if word in _WORDS:
            return _WORDS[word]
        if not self._sign("("):
            raise ValueError(_not_allowed(self.text))
        if word == "extract":
            return self._extract(depth)
        if word not in FUNCTIONS:
            near = ["gen_random_uuid"] if word == "uuid" else difflib.get_close_matches(word, FUNCTIONS, 1)
            hint = f"did you mean {near[0]}()?" if near else f"use one of {', '.join(sorted(FUNCTIONS))}"
            raise ValueError(f"the function {word}() is not allowed; {hint}")
        return f"{word}({', '.join(self._list(')', depth))})"

    def _extract(self, depth: int) -> str:
        field = self._take(_WORD)
        if field is None or field.group().lower() not in _FIELDS or not self._words("from"):
            raise ValueError(_not_allowed(self.text))
        inner = self.expression(depth + 1)
        self._expect(")")
        return f"EXTRACT({field.group().lower()} FROM {inner.sql})"

    def _list(self, end: str, depth: int) -> list[str]:
        found: list[str] = []
        while not self._sign(end):
            if found:
                self._expect(",")
            found.append(self.expression(depth + 1).sql)
        return found


def _number_in(core: str, cast: ColumnType | None) -> str:
    """Postgres prints a negative number as a text with a cast: '-1'::integer is -1."""
    inner = core[1:-1]
    if cast and cast.base in NUMERIC and not cast.array and core.startswith("'"):
        match = _NUMBER.fullmatch(inner.removeprefix("-"))
        return inner if match else core
    return core


def same_default(wanted: Default, current: str, column: ColumnType) -> bool:
    """Whether a default and Postgres's text for the current one agree at sight.

    False means only that Postgres must be asked.
    """
    if wanted.sql == current:
        return True
    try:
        found = parse_default(current)
    except ValueError:
        return False
    if found is None:
        return False
    return found.core == wanted.core and _plain(found.cast, column) and _plain(wanted.cast, column)


def _plain(cast: ColumnType | None, column: ColumnType) -> bool:
    """Whether a cast says no more than the column's own type does."""
    return cast is None or (cast.base == column.base and cast.array == column.array and not cast.numbers)
