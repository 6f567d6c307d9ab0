"""Column types: one canonical spelling for each, so that what was applied reads back the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Set
from dataclasses import dataclass

# Canonical name → other spellings, Postgres's own long names among them.
_SPELLINGS = {
    "text": (),
    "varchar": ("character varying",),
    "char": ("character",),
    "uuid": (),
    "boolean": ("bool",),
    "smallint": ("int2",),
    "integer": ("int", "int4"),
    "bigint": ("int8",),
    "smallserial": ("serial2",),
    "serial": ("serial4",),
    "bigserial": ("serial8",),
    "real": ("float4",),
    "double precision": ("float8", "float"),
    "numeric": ("decimal",),
    "timestamptz": ("timestamp with time zone",),
    "timestamp": ("timestamp without time zone",),
    "date": (),
    "time": ("time without time zone",),
    "timetz": ("time with time zone",),
    "interval": (),
    "jsonb": (),
    "json": (),
    "bytea": (),
    "vector": (),
}
_CANONICAL = {other: name for name, others in _SPELLINGS.items() for other in (name, *others)}
SERIALS = {"smallserial": "smallint", "serial": "integer", "bigserial": "bigint"}
_SERIAL_OF = {base: serial for serial, base in SERIALS.items()}

# Spellings of other databases and languages, and what is meant.
_FOREIGN = {
    "string": "text",
    "str": "text",
    "datetime": "timestamptz",
    "number": "numeric",
    "double": "double precision",
    "object": "jsonb",
    "array": "text[]",
    "blob": "bytea",
    "autoincrement": "serial",
    "tinyint": "smallint",
    "longtext": "text",
    "embedding": "vector(1536)",
}

_NAMES = "|".join(re.escape(n).replace(r"\ ", r"\s+") for n in sorted(_CANONICAL, key=len, reverse=True))
TYPE_PATTERN = rf"({_NAMES})(?![a-z0-9_])(?:\s*\(\s*(\d{{1,9}})\s*(?:,\s*(\d{{1,9}})\s*)?\))?(?:\s*(\[\s*\]))?"
"""Matches a type at the start of a lower-case text: name, two numbers, brackets."""
_TYPE = re.compile(TYPE_PATTERN)

# How many numbers a type takes in brackets, and the largest first one.
_LENGTHS = {"varchar": 10_485_760, "char": 10_485_760, "vector": 16_000}
_MAX_PRECISION = 1000


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type in canonical form. ``numbers`` are length, precision and scale, or dimensions.

    A type that the documents do not know (an enumeration made by other means) is ``opaque``:
    its ``base`` is Postgres's own text for it.
    """

    base: str
    numbers: tuple[int, ...] = ()
    array: bool = False
    opaque: bool = False

    @property
    def name(self) -> str:
        """The spelling in documents; Postgres understands it too."""
        numbers = f"({','.join(map(str, self.numbers))})" if self.numbers else ""
        return f"{self.base}{numbers}{'[]' if self.array else ''}"

    @property
    def serial(self) -> bool:
        """Whether values come from a sequence that belongs to the column."""
        return self.base in SERIALS

    @property
    def stored(self) -> ColumnType:
        """The type of the stored values: that of a serial is an integer type."""
        return ColumnType(SERIALS[self.base]) if self.serial else self


def parse_type(text: str, known: Set[str] = frozenset()) -> ColumnType:
    """The type that a text names. Raises ``ValueError`` that says what would be right.

    ``known`` are texts of Postgres for types that the app's columns have already.
    """
    low = " ".join(text.lower().split())
    match = _TYPE.fullmatch(low)
    if match is None:
        if text in known:
            return ColumnType(text, opaque=True)
        raise ValueError(_unknown(text, low))
    base = _CANONICAL[match.group(1)]
    numbers = tuple(int(n) for n in match.group(2, 3) if n is not None)
    array = match.group(4) is not None
    if array and base in SERIALS:
        raise ValueError(f"{base} cannot be an array; use {SERIALS[base]}[]")
    return ColumnType(base, _numbers(base, numbers), array)


def _numbers(base: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    if base == "char" and not numbers:
        return (1,)
    if not numbers:
        return ()
    if base in _LENGTHS:
        length, *rest = numbers
        if rest or not 1 <= length <= _LENGTHS[base]:
            raise ValueError(f"{base} takes one number from 1 to {_LENGTHS[base]}")
        return numbers
    if base == "numeric":
        precision, scale = (*numbers, 0)[:2]
        if not 1 <= precision <= _MAX_PRECISION or scale > precision:
            raise ValueError(f"numeric takes a precision from 1 to {_MAX_PRECISION} and a scale not above it")
        return precision, scale
    raise ValueError(f"{base} takes no number in brackets")


def _unknown(text: str, low: str) -> str:
    word = re.split(r"[\s(\[]", low, maxsplit=1)[0]
    near = [_FOREIGN[word]] if word in _FOREIGN else difflib.get_close_matches(word, _CANONICAL, 1, 0.7)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(_SPELLINGS)}, or one of them with []"
    return f"{text!r} is not a type; {hint}"


def read_type(text: str, *, serial: bool = False) -> ColumnType:
    """The type of an existing column from Postgres's text for it."""
    match = _TYPE.fullmatch(text)
    if match is None:
        return ColumnType(text, opaque=True)
    try:
        found = parse_type(text)
    except ValueError:
        return ColumnType(text, opaque=True)
    if serial and found.base in _SERIAL_OF and not found.array:
        return ColumnType(_SERIAL_OF[found.base])
    return found


_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
# From each type to those that hold every value of it exactly.
_WIDER = {
    "smallint": {"integer", "bigint", "real", "double precision"},
    "integer": {"bigint", "double precision"},
    "bigint": set[str](),
    "real": {"double precision"},
    "date": {"timestamp"},
    "varchar": {"text"},
}


def widens(old: ColumnType, new: ColumnType) -> bool:
    """Whether every value of the old type fits the new one without loss, by Postgres's own conversion."""
    if old.opaque or new.opaque or old.array != new.array:
        return False
    if old.base == new.base:
        return _longer(old, new)
    if new.base == "numeric" and old.base in _DIGITS:
        return not new.numbers or new.numbers[0] - new.numbers[1] >= _DIGITS[old.base]
    if old.base == "text" and new.base == "varchar":
        return not new.numbers
    return new.base in _WIDER.get(old.base, ())


def _longer(old: ColumnType, new: ColumnType) -> bool:
    if not new.numbers or old.numbers == new.numbers:
        return True
    if not old.numbers or old.base == "vector":
        return False
    if old.base == "numeric":
        (had, scale), (gets, new_scale) = old.numbers, new.numbers
        return new_scale >= scale and gets - new_scale >= had - scale
    return new.numbers >= old.numbers


_FAMILIES = (
    {"smallint", "integer", "bigint", "numeric"},
    {"real", "double precision"},
    {"text", "varchar", "char"},
    {"date", "timestamp", "timestamptz"},
)
_FAMILY = {name: place for place, family in enumerate(_FAMILIES) for name in family}
NUMERIC = _FAMILIES[0] | _FAMILIES[1]


def comparable(one: ColumnType, other: ColumnType) -> bool:
    """Whether a foreign key may join columns of these types."""
    one, other = one.stored, other.stored
    if one.array != other.array:
        return False
    return one.base == other.base or _FAMILY.get(one.base, -1) == _FAMILY.get(other.base, -2)
