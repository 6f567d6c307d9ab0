"""The schema document: what an app's tables should be, as models that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from brolly.core.reserved import ROUTE_WORDS
from brolly.pg.expression import one_expression
from brolly.schema.defaults import Default
from brolly.schema.names import Known, Name, known, read_default
from brolly.schema.problems import Problem, problems_of, refuse
from brolly.schema.routines import AnyView, Function, View
from brolly.schema.types import ColumnType, parse_type

MAX_TABLES = 50
MAX_ENTRIES = 20_000
MAX_COLUMNS = 200
MAX_INDEXES = 50
MAX_VIEWS = 50
MAX_FUNCTIONS = 100

# Operator classes by method; the default class of a type need not be named.
OPCLASSES: Mapping[str, Set[str]] = {
    "btree": frozenset(("text_pattern_ops", "varchar_pattern_ops", "bpchar_pattern_ops")),
    "hash": frozenset[str](),
    "gist": frozenset(("range_ops", "tsvector_ops", "inet_ops")),
    "gin": frozenset(("jsonb_ops", "jsonb_path_ops", "array_ops", "tsvector_ops")),
    "hnsw": frozenset(("vector_l2_ops", "vector_ip_ops", "vector_cosine_ops", "vector_l1_ops")),
    "ivfflat": frozenset(("vector_l2_ops", "vector_ip_ops", "vector_cosine_ops")),
}


def _type(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be a text such as "uuid" or "varchar(20)"')
    return parse_type(value, known(info).types)


def _references(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    table, dot, column = value.partition(".")
    if not (table and dot and column):
        raise ValueError(f'{value!r} is not "table.column"')
    return {"table": table, "column": column}


def _word(value: Any) -> Any:
    return " ".join(value.upper().split()) if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Expression = Annotated[str, AfterValidator(one_expression)]
Rule = Annotated[Literal["NO ACTION", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT"], BeforeValidator(_word)]
Method = Annotated[Literal["btree", "hash", "gist", "gin", "hnsw", "ivfflat"], BeforeValidator(_lower)]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class References(_Node):
    """A foreign key of one column."""

    table: Name
    column: Name
    on_delete: Rule = Field("NO ACTION", alias="onDelete")
    on_update: Rule = Field("NO ACTION", alias="onUpdate")


class Column(_Node):
    """A column, described in full: what is left out is not wanted."""

    type: Annotated[ColumnType, BeforeValidator(_type)]
    primary_key: bool = Field(False, alias="primaryKey")
    nullable: bool | None = None
    default: Annotated[Default | None, BeforeValidator(read_default)] = None
    unique: bool = False
    references: Annotated[References | None, BeforeValidator(_references)] = None

    @model_validator(mode="after")
    def _agree(self) -> Column:
        if self.nullable and self.primary_key:
            raise ValueError("a primary key cannot be nullable; leave nullable out")
        if self.type.serial and self.nullable:
            raise ValueError(f"{self.type.name} cannot be nullable; leave nullable out")
        if self.type.serial and self.default is not None:
            raise ValueError(f"{self.type.name} brings its own default; leave default out")
        return self


class Index(_Node):
    """An index over plain columns."""

    columns: list[Name] = Field(min_length=1, max_length=32)
    unique: bool = False
    method: Method = "btree"
    opclass: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> Index:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("a column is named twice")
        if self.unique and self.method != "btree":
            raise ValueError("only a btree index can be unique")
        if len(self.columns) > 1 and self.method in ("hash", "hnsw", "ivfflat"):
            raise ValueError(f"a {self.method} index has one column")
        if self.opclass is not None and self.opclass not in OPCLASSES[self.method]:
            allowed = ", ".join(sorted(OPCLASSES[self.method])) or "none; leave opclass out"
            raise ValueError(f"{self.opclass!r} is not an operator class for {self.method}; allowed: {allowed}")
        if self.method == "hnsw" and self.opclass is None:
            raise ValueError('an hnsw index needs an operator class: add "opclass": "vector_cosine_ops"')
        return self


class Table(_Node):
    """A table. Its columns are described in full; those left out are kept as they are."""

    columns: dict[Name, Column] = Field(default_factory=dict[str, Column], max_length=MAX_COLUMNS)
    indexes: dict[Name, Index] = Field(default_factory=dict[str, Index], max_length=MAX_INDEXES)
    primary_key: list[Name] | None = Field(None, alias="primaryKey", max_length=32)
    checks: dict[Name, Expression | None] = Field(default_factory=dict[str, str | None], max_length=MAX_COLUMNS)
    drop_columns: list[Name] = Field(default_factory=list[str], alias="_dropColumns")
    drop_indexes: list[Name] = Field(default_factory=list[str], alias="_dropIndexes")
    alter_type: dict[Name, Expression] = Field(default_factory=dict[str, str], alias="_alterType")
    seed: bool = Field(False, alias="_seed")
    """Known to other servers of this contract; without effect here."""

    @property
    def key(self) -> tuple[str, ...] | None:
        """The primary key that the document asks for; None when it does not say."""
        if self.primary_key is not None:
            return tuple(self.primary_key)
        return tuple(name for name, column in self.columns.items() if column.primary_key) or None

    @model_validator(mode="after")
    def _agree(self) -> Table:
        flagged = [name for name, column in self.columns.items() if column.primary_key]
        if self.primary_key is None and len(flagged) > 1:
            names = ", ".join(f'"{name}"' for name in flagged)
            raise ValueError(f'for a key of several columns put "primaryKey": [{names}] on the table')
        if self.primary_key is not None and not set(flagged) <= set(self.primary_key):
            raise ValueError("primaryKey of the table and of its columns disagree; keep one of them")
        nullable = [name for name in self.key or () if name in self.columns and self.columns[name].nullable]
        if nullable:
            raise ValueError(f"the primary key's column {nullable[0]} cannot be nullable; leave nullable out")
        for given, dropped, key in (
            (self.columns, self.drop_columns, "_dropColumns"),
            (self.indexes, self.drop_indexes, "_dropIndexes"),
        ):
            if both := sorted(given.keys() & set(dropped)):
                raise ValueError(f"{', '.join(both)} is described and named in {key}; keep one of them")
        if unlisted := sorted(self.alter_type.keys() - self.columns.keys()):
            raise ValueError(f"_alterType names {', '.join(unlisted)}, which is not among the table's columns")
        return self


class Document(_Node):
    """The whole document."""

    tables: dict[Name, Table] = Field(default_factory=dict[str, Table])
    drop: list[Name] = Field(default_factory=list[str], alias="_drop")
    views: dict[Name, AnyView] = Field(default_factory=dict[str, View], max_length=MAX_VIEWS)
    functions: dict[Name, Function] = Field(default_factory=dict[str, Function], max_length=MAX_FUNCTIONS)
    drop_views: list[Name] = Field(default_factory=list[str], alias="_dropViews")
    drop_functions: list[Name] = Field(default_factory=list[str], alias="_dropFunctions")


def parse_document(raw: Any, there: Known | None = None) -> Document:
    """The document, or one error that lists everything wrong with it."""
    problems: list[Problem] = []
    document: Document | None = None
    if _is_larger(raw, MAX_ENTRIES):
        raise refuse([Problem("", f"the document has more than {MAX_ENTRIES} entries; apply it in parts")])
    try:
        document = Document.model_validate(raw, context=there)
    except ValidationError as error:
        problems = problems_of(error)
    for kind in ("tables", "views", "functions"):
        given: Any = cast(Mapping[str, Any], raw).get(kind) if isinstance(raw, Mapping) else None
        names = cast(Mapping[str, Any], given if isinstance(given, Mapping) else {})
        problems += [problem for name in names if (problem := _reserved(kind, name))]
    if document is not None:
        problems += _clashes(document)
    if document is None or problems:
        raise refuse(problems)
    return document


def _is_larger(raw: Any, most: int) -> bool:
    """Whether there are more than so many keys and elements in it, counted no further than that."""
    left, seen = [raw], 0
    while left:
        node: Any = left.pop()
        inside: list[Any] = []
        if isinstance(node, Mapping):
            inside = list(cast(Mapping[str, Any], node).values())
        elif isinstance(node, list):
            inside = cast(list[Any], node)
        seen += len(inside)
        if seen > most:
            return True
        left += inside
    return False


def _reserved(kind: str, name: str) -> Problem | None:
    why = ""
    if kind == "functions" and name in _OURS:
        why = "this function is the platform's"
    elif kind == "functions" and name in _CALLED:
        why = "the platform calls Postgres's function of this name, which yours could stand in for; choose another name"
    elif name.startswith("_") or name.startswith("pg_"):
        why = "names that start with _ or pg_ belong to the platform"
    elif name == "public":
        why = "this is the name of the schema that all tables are in"
    elif name in ROUTE_WORDS and kind != "functions":
        why = f"the data API could not reach it: /v1/{{app_id}}/{name} is a route of the platform; choose another name"
    return Problem(f"{kind}.{name}", why, "VALIDATION_RESERVED_TABLE") if why else None


_OURS = frozenset(("current_user_id", "uuid_generate_v4"))
_CALLED = frozenset((
    "array_agg", "avg", "bool_and", "bool_or", "convert_to", "count", "json_agg", "json_build_object", "json_each",
    "json_object_agg", "json_strip_nulls", "json_to_record", "json_to_recordset", "jsonb_build_object",
    "jsonb_populate_record", "lower", "max", "min", "octet_length", "phraseto_tsquery", "plainto_tsquery",
    "row_to_json", "set_config", "string_agg", "sum", "to_char", "to_json", "to_tsquery", "to_tsvector", "unnest",
    "websearch_to_tsquery",
))  # fmt: skip


def _clashes(document: Document) -> list[Problem]:
    problems = [
        Problem(f"_drop.{name}", "the table is described and named in _drop; keep one of them")
        for name in sorted(document.tables.keys() & set(document.drop))
    ]
    problems += [
        Problem(f"_drop.{name}", "tables that start with _ belong to the platform", "VALIDATION_RESERVED_TABLE")
        for name in document.drop
        if name.startswith("_")
    ]
    for given, dropped, key in (
        (document.views, document.drop_views, "_dropViews"),
        (document.functions, document.drop_functions, "_dropFunctions"),
    ):
        both = sorted(given.keys() & set(dropped))
        problems += [Problem(f"{key}.{name}", f"it is described and named in {key}; keep one of them") for name in both]
    # Tables, views and indexes share one space of names in Postgres.
    owners = {name: f"tables.{name}" for name in document.tables}
    for view in document.views:
        if view in owners:
            problems.append(Problem(f"views.{view}", f"the name is taken by {owners[view]}"))
        owners.setdefault(view, f"views.{view}")
    for table, spec in document.tables.items():
        for index in spec.indexes:
            path = f"tables.{table}.indexes.{index}"
            if index in owners:
                problems.append(Problem(path, f"the name is taken by {owners[index]}; index names are per app"))
            owners.setdefault(index, path)
    return problems
