"""Views and functions in the document: what they should be."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from brolly.pg.catalog import Function as Existing
from brolly.pg.identifiers import quote
from brolly.pg.statement import check_body, check_query
from brolly.schema.defaults import Default, same_default
from brolly.schema.names import Name, check_name, known, read_default
from brolly.schema.types import ColumnType, parse_type

MAX_ARGUMENTS = 50
ROLES = {"anon": "butterbase_anon", "user": "butterbase_user", "service": "butterbase_service"}


def bare(kind: ColumnType) -> ColumnType:
    """The type as Postgres keeps it of an argument or a result: without length and scale."""
    return kind if kind.opaque else ColumnType(kind.stored.base, (), kind.array)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _type(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be a text such as "uuid" or "text[]"')
    return bare(parse_type(value, known(info).types))


@dataclass(frozen=True, slots=True)
class Returns:
    """What a function answers: ``sql`` is it in one spelling."""

    sql: str


def parse_returns(text: str, types: Set[str] = frozenset()) -> Returns:
    """The result that the text names."""
    low = " ".join(text.split())
    if low.lower() == "void":
        return Returns("void")
    if low.lower() in ("trigger", "record", "setof record"):
        raise ValueError(f"{low} cannot be called from outside; return a type, a table's rows or table(name type, …)")
    if match := re.fullmatch(r"(?i)table ?\((.*)\)", low):
        columns = [part.strip().split(" ", 1) for part in re.split(r",(?![^(]*\))", match.group(1))]
        if any(len(column) < 2 for column in columns):
            raise ValueError("write the columns of table(…) as name type, for example table(id integer, title text)")
        said = [f"{quote(check_name(name.strip(chr(34))))} {_one(kind, types)}" for name, kind in columns]
        return Returns(f"table({', '.join(said)})")
    if match := re.fullmatch(r"(?i)setof (.*)", low):
        return Returns(f"setof {_one(match.group(1), types)}")
    return Returns(_one(low, types))


def _one(text: str, types: Set[str]) -> str:
    try:
        return bare(parse_type(text, types)).name
    except ValueError:
        # The name of a table or view: a row of it.
        name = text.strip('"')
        if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            return quote(name)
        raise


def _returns(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be a text such as "setof posts", "table(id integer, title text)", "integer" or "void"')
    return parse_returns(value, known(info).types)


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, arbitrary_types_allowed=True)


class Argument(_Node):
    """An argument of a function."""

    type: Annotated[ColumnType, BeforeValidator(_type)]
    default: Annotated[Default | None, BeforeValidator(read_default)] = None


def _argument(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _query(value: Any) -> Any:
    return {"query": value} if isinstance(value, str) else value


class View(_Node):
    """A view, which always runs with the rights of who reads it."""

    query: Annotated[str, AfterValidator(check_query)]


AnyView = Annotated[View, BeforeValidator(_query)]


class Function(_Node):
    """A function, described in full."""

    arguments: dict[Name, Annotated[Argument, BeforeValidator(_argument)]] = Field(
        default_factory=dict[str, Argument], max_length=MAX_ARGUMENTS
    )
    returns: Annotated[Returns, BeforeValidator(_returns)]
    language: Annotated[Literal["sql", "plpgsql"], BeforeValidator(_lower)] = "sql"
    body: Annotated[str, AfterValidator(check_body)]
    volatility: Annotated[Literal["volatile", "stable", "immutable"], BeforeValidator(_lower)] = "volatile"
    security: Annotated[str, BeforeValidator(_lower)] = "invoker"
    expose: list[Literal["anon", "user", "service"]] = Field(default_factory=list[Any], max_length=3)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that may call it; the service role always may."""
        return frozenset(ROLES[name] for name in (*self.expose, "service"))

    @model_validator(mode="after")
    def _agree(self) -> Function:
        if self.security != "invoker":
            raise ValueError(
                "security definer is not offered: the function would pass every policy with the rights of the owner; "
                "leave security out, and let policies (manage_rls) or a service key give the access that is meant"
            )
        after = False
        for name, argument in self.arguments.items():
            if after and argument.default is None:
                raise ValueError(f"argument {name} needs a default, since one before it has one")
            after = after or argument.default is not None
        return self


def same_signature(wanted: Function, now: Existing) -> bool:
    """Whether the existing function can take on the wanted body: equal arguments, by name too, and result."""
    return (
        [(n, a.type.name) for n, a in wanted.arguments.items()]
        == [(a.name, bare_text(a.value.type)) for a in now.arguments]
        and all(_same_default(a, e.default) for a, e in zip(wanted.arguments.values(), now.arguments, strict=True))
        and wanted.returns == returns_of(now)
    )


def _same_default(argument: Argument, current: str | None) -> bool:
    if argument.default is None or current is None:
        return argument.default is None and current is None
    return same_default(argument.default, current, argument.type)


def bare_text(text: str) -> str:
    """Postgres's text of a type in the spelling of documents."""
    return bare(parse_type(text, {text})).name


def returns_of(now: Existing) -> Returns:
    """The result of an existing function."""
    types = {*(a.value.type for a in now.arguments), *(c.type for c in now.columns.values())}
    try:
        return parse_returns(now.returns, types | ({now.value.type} if now.value else set[str]()))
    except ValueError:
        return Returns(now.returns)


def same_function(wanted: Function, now: Existing) -> bool:
    """Whether nothing would change but who may call it."""
    return (
        same_signature(wanted, now)
        and (wanted.language, wanted.body, wanted.volatility) == (now.language, now.body, now.volatility)
        and now.plain
        and not (now.definer or now.settings)
    )
