"""Statements that an app's own code sends: one at a time, as a caller, and nothing that could change who that is.

The fences, from the outside in. The login can take on one role alone and no other database. The text is read
as Postgres's lexer would: only statements on rows, and no function or view that reaches beyond the app. It goes
as a prepared statement, of which Postgres takes one. And after each statement the caller must be who it was,
else all of it is undone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.pg.meter import metered
from brolly.pg.pool import Connection, Database
from brolly.pg.session import as_caller

LONGEST = 100_000
MOST_ROWS = 10_000
MOST_BYTES = 8 * 1024 * 1024
"""Of Postgres's answer."""
LARGEST_SAFE = 2**53 - 1
"""The largest whole number that JavaScript tells from its neighbours."""

_KINDS = frozenset({"select", "insert", "update", "delete", "merge", "with", "values", "table"})
_DENIED = re.compile(
    r"set_config|dblink\w*|lo_\w+|lo(read|write)|pg_(read|write|stat)_(binary_)?file\w*|pg_ls_\w+|pg_file_\w+"
    r"|pg_execute_server_program|pg_reload_conf|pg_rotate_logfile|pg_(terminate|cancel)_backend|pg_notify"
    r"|pg_(try_)?advisory_(lock|unlock)\w*|(query|table|schema|database|cursor)_to_xml\w*|ts_stat"
    r"|pg_export_snapshot|pg_logical_\w+|pg_replication_\w+|pg_create_\w+|pg_drop_\w+|pg_promote|pg_switch_wal"
    # Text that they run as a statement, settings, and what says something of other apps or the machine.
    r"|ts_rewrite|crosstab\w*|connectby\w*|xpath_table|set_limit|postgres_fdw\w*|plpgsql_\w+|binary_upgrade_\w+"
    r"|pg_lock_status|pg_(safe_snapshot_)?blocking_pids|pg_(copy|import|control|wal|current_wal|last|sync)_\w+"
    r"|pg_get_(loaded|wal|wait|replication|multixact|shmem|acl|object)\w*|pg_(restore|clear)_\w+_stats|pg_input_\w+"
    r"|pg_(describe|identify)_object\w*|(to_)?regrole\w*|makeaclitem|aclexplode|pg_has_role|has_database_privilege"
    r"|pg_available_wal\w*|pg_isolation_\w+|pg_user_mappings?|pg_foreign_\w+"
    # What the cluster holds beside this app.
    r"|pg_database\w*|pg_roles|pg_user|pg_users|pg_group|pg_shadow|pg_authid|pg_auth_members|pg_stat_\w+|pg_locks"
    r"|pg_settings|pg_show_all_\w+|pg_hba\w*|pg_ident\w*|pg_shdepend|pg_shdescription|pg_shseclabel|pg_tablespace\w*"
    r"|pg_db_role_setting|pg_prepared_\w+|pg_file_settings|pg_config|pg_get_userbyid|pg_subscription\w*"
)
# As Postgres's lexer has them, in which every character beyond ASCII belongs to names.
_NAME = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*"
_SKIPPED = re.compile(r"(?:[^A-Za-z0-9_\x80-\U0010ffff\"'$/;(-]+|[0-9][0-9A-Za-z_]*|--[^\n\r]*|[-/](?![-*]))+")
_BLOCK = re.compile(r"/\*|\*/")
_WORD = re.compile(_NAME)
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$")
_QUOTED = re.compile(r'"((?:[^"]|"")*+)"')
_STRING = re.compile(r"'(?:[^']|'')*+'")
_ESCAPES = re.compile(r"'(?:[^'\\]|''|\\.)*+'", re.DOTALL)
_GOES_ON = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:\s|--[^\n\r]*)*'")
"""After a text: a line's end and another quote go on with it, in the same manner of quoting."""


def refused(why: str) -> AppError:
    """The error for a statement that is not taken."""
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"ctx.db.query does not take this statement: {why}.",
        remediation="Send one statement on rows (select, insert, update, delete) with its values as parameters; "
        "change structure with manage_schema apply.",
    )


def check_statement(sql: str) -> None:
    """Raises unless the text is one statement on rows that names nothing outside the app."""
    if len(sql) > LONGEST or "\0" in sql:
        raise refused(f"it is longer than {LONGEST} characters" if len(sql) > LONGEST else "it contains a zero byte")
    words = _words(sql)
    first = next(words, "")
    while first == "(":
        first = next(words, "")
    if first not in _KINDS:
        raise refused(f"it begins with {first[:40]!r}")
    for word in words:
        if word == ";":
            if next(words, ""):
                raise refused("it is more than one")
        elif _DENIED.fullmatch(word):
            raise refused(f"{word[:60]} reaches beyond the caller's rows")


def _words(sql: str) -> Iterator[str]:
    """Names (quoted ones too, in lower case), opening brackets and semicolons, as Postgres reads them."""
    at = 0
    while at < len(sql):
        if found := _SKIPPED.match(sql, at):
            at = found.end()
        elif found := _WORD.match(sql, at):
            word, at = found.group(), found.end()
            if word in ("e", "E") and sql.startswith("'", at):
                at = _end(_ESCAPES, sql, at)
                if _GOES_ON.match(sql, at):
                    raise refused("a text that goes on in another line is not taken after E'…'")
                continue
            if word in ("u", "U") and sql.startswith(("&'", '&"'), at):
                raise refused("U&\"…\" and U&'…' are not taken")
            yield word.lower()
        elif sql[at] == '"':
            end = _end(_QUOTED, sql, at)
            yield sql[at + 1 : end - 1].replace('""', '"').lower()
            at = end
        elif sql[at] in "(;":
            yield sql[at]
            at += 1
        else:
            at = _skipped(sql, at)


def _skipped(sql: str, at: int) -> int:
    """The position after the comment, text or single character that starts here."""
    if sql.startswith("/*", at):
        return _end_of_comment(sql, at)
    if sql[at] == "'":
        return _end(_STRING, sql, at)
    if sql[at] == "$" and (tag := _DOLLAR.match(sql, at)):
        end = sql.find(tag.group(), tag.end())
        if end < 0:
            raise refused("a quoted text does not end")
        return end + len(tag.group())
    return at + 1


def _end(pattern: re.Pattern[str], sql: str, at: int) -> int:
    found = pattern.match(sql, at)
    if found is None:
        raise refused("a quote is not closed")
    return found.end()


def _end_of_comment(sql: str, at: int) -> int:
    depth = 0
    for found in _BLOCK.finditer(sql, at):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end()
    raise refused("a comment does not end")


async def prepare_connection(connection: Connection) -> None:
    """Have values travel as text: what code holds as JSON need not know Postgres's types."""
    # asyncpg prepares by names in pg_catalog; arrays and composites follow their elements.
    for name, decode in _TEXT_TYPES.items():
        await connection.set_type_codec(name, schema="pg_catalog", encoder=_to_text, decoder=decode, format="text")
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=_to_json, decoder=json.loads, format="text")


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _to_json(value: Any) -> str:
    # A text that is JSON already is taken as such, as drivers of other languages do.
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return json.dumps(value)
        return value
    return json.dumps(value)


def _moment(text: str) -> str:
    """As to_json writes it: ``2026-01-02T03:04:05+00:00``."""
    day, _, time = text.partition(" ")
    if not time or " " in time:
        return text
    return f"{day}T{time}" + (":00" if re.search(r"[+-]\d\d$", time) else "")


def _number(text: str) -> int | float | str:
    """JSON knows no NaN or infinity: these stay texts."""
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    return number if number - number == 0 else text


# Types whose values asyncpg wants as objects of Python's. Numbers, truth values and texts are left as they are,
# since asyncpg reads the catalogs with them.
_TEXT_TYPES: dict[str, Any] = {
    "numeric": _number,
    **dict.fromkeys(("timestamp", "timestamptz"), _moment),
    **dict.fromkeys(
        ("uuid", "date", "time", "timetz", "interval", "bytea", "inet", "cidr", "macaddr", "xml", "tsvector",
         "tsquery", "bit", "varbit", "point", "jsonpath"), str
    ),
}  # fmt: skip
_WHOLE = frozenset({"int2", "int4", "int8", "oid"})
_BROKEN = frozenset({"float4", "float8"})
_TEXTS = frozenset({"text", "varchar", "bpchar", "name"})
_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def _argument(kind: str, value: Any) -> Any:
    """A value out of JSON as asyncpg takes it for a parameter of that type."""
    if isinstance(value, list) and kind.endswith("[]"):
        return [_argument(kind.removesuffix("[]"), item) for item in cast(list[Any], value)]
    if isinstance(value, str):
        try:
            return int(value) if kind in _WHOLE else float(value) if kind in _BROKEN else _truth(kind, value)
        except ValueError:
            return value
    if kind in _TEXTS and isinstance(value, bool | int | float | dict | list):
        return _to_text(value)
    if kind in _WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return cast(Any, value)


def _truth(kind: str, value: str) -> Any:
    return _TRUTH.get(value.lower(), value) if kind == "bool" else value


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement answered: ``rows`` by column name, and ``count`` of rows returned or changed."""

    rows: list[dict[str, Any]]
    count: int


@asynccontextmanager
async def transaction(pool: Database, caller: Caller) -> AsyncGenerator[Connection]:
    """A connection in a transaction as the caller, for ``run``; commits when the block ends well."""
    refusal: AppError | None = None
    try:
        async with as_caller(pool, caller) as connection:
            try:
                yield connection
            except AppError as error:
                refusal = error
                raise
    except AppError:
        # Where the connection had to be ended, undoing says only that it is gone.
        if refusal is None:
            raise
        raise refusal from None


async def run(connection: Connection, caller: Caller, sql: str, params: Sequence[Any]) -> Rows:
    """Run the app's statement in ``transaction``. After an error the transaction can only be undone."""
    check_statement(sql)
    with metered(connection, MOST_BYTES) as meter:
        try:
            return await _run(connection, caller, sql, params)
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError):
            if not meter.exceeded:
                raise
            raise _too_much() from None


def _too_much() -> AppError:
    return refused(f"it answers more than {MOST_BYTES // 2**20} MB; use limit, or fewer columns")


async def _run(connection: Connection, caller: Caller, sql: str, params: Sequence[Any]) -> Rows:
    statement = await connection.prepare(sql)
    if len(statement.get_parameters()) != len(params):
        wanted = len(statement.get_parameters())
        raise refused(f"it has {wanted} parameters, and {len(params)} values were given")
    try:
        types = [each.name for each in statement.get_parameters()]
        records = await statement.fetch(*map(_argument, types, params))
    except (asyncpg.InterfaceError, asyncpg.DataError) as error:
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate and error.sqlstate != "22000":
            raise
        raise refused(str(error)[:300]) from None
    await _still(connection, caller)
    if len(records) > MOST_ROWS:
        raise refused(f"it answers {len(records)} rows, {MOST_ROWS} are the most; use limit")
    tag = (statement.get_statusmsg() or "").split()
    changed = int(tag[-1]) if tag and tag[-1].isdigit() else len(records)
    return Rows([{key: _plain(value) for key, value in record.items()} for record in records], changed)


async def _still(connection: Connection, caller: Caller) -> None:
    same = await connection.fetchval(
        "select current_user = $1 and current_setting('request.jwt.claim.sub', true) is not distinct from $2 "
        "and current_setting('request.jwt.claims', true) is not distinct from $3 "
        "and current_setting('app.role', true) is not distinct from $1",
        caller.role,
        caller.user_id or "",
        json.dumps(dict(caller.claims)),
    )
    if not same:
        raise refused("it changes who the caller is")


def _plain(value: Any) -> Any:
    """As JSON carries it. What JavaScript's numbers cannot hold goes as text rather than as another number."""
    if isinstance(value, asyncpg.Record):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast(list[Any], value)]
    if value is None or isinstance(value, bool | str | dict):
        return cast(Any, value)
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_SAFE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, asyncpg.Range):
        bounds = cast(Any, value)
        opening, closing = "[" if value.lower_inc else "(", "]" if value.upper_inc else ")"
        ends = ["" if end is None else str(end) for end in (bounds.lower, bounds.upper)]
        return "empty" if value.isempty else f"{opening}{ends[0]},{ends[1]}{closing}"
    return str(value)
