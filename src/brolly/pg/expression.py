"""Expressions that the app's owner writes: one each, and nothing that reaches beyond its row.

Two fences. ``check_one_expression`` reads the text as Postgres's lexer would, so that it
can stand between parentheses without ending them. What the text *means* is left to
Postgres: once it has parsed and stored the expression, ``unsafe_functions`` reads the
functions' ids from the stored tree, where no quoting or search path can hide them.
The lexer supposes ``standard_conforming_strings``, Postgres's default; whoever runs the
statement sets it, since a database may be configured otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import asyncpg

from brolly.core.errors import AppError
from brolly.pg.pool import Connection

MAX_LENGTH = 4000

_CLOSING = {")": "(", "]": "["}
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$")
_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*")
_CONTINUED = re.compile(r"[ \t\r\n\f\v]*'")
_SPACE = " \t\r\n\f\v"


def check_one_expression(text: str, *, code: str = "VALIDATION_INVALID_SCHEMA", what: str = "expression") -> str:
    """The text without space around it, if it is one SQL expression as far as quotes and brackets tell.

    Raises ``code`` for comments, semicolons, a comma outside brackets, brackets that do not
    match and quotes that do not end. ``what`` names the expression in the message.
    """
    try:
        return one_expression(text)
    except ValueError as error:
        raise AppError(code, f"The {what} is not accepted: {error}.") from None


def one_expression(text: str) -> str:
    """As ``check_one_expression``, for use in validators: raises ``ValueError`` with the reason."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, {MAX_LENGTH} are allowed")
    if "\0" in text:
        raise ValueError("it contains a zero byte")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("it contains half of a character")
    text = text.strip(_SPACE)
    if not text:
        raise ValueError("it is empty")
    _scan(text)
    return text


def _scan(text: str) -> None:
    at = 0
    open_brackets: list[str] = []
    while at < len(text):
        char = text[at]
        if char in "([":
            open_brackets.append(char)
        elif char in ")]":
            if not open_brackets or open_brackets.pop() != _CLOSING[char]:
                raise ValueError(f"the {char!r} at character {at + 1} closes nothing")
        else:
            _refuse(text, at, bool(open_brackets))
            at = _skip(text, at)
            continue
        at += 1
    if open_brackets:
        raise ValueError(f"a {open_brackets[-1]!r} is not closed")


def _refuse(text: str, at: int, inside: bool) -> None:
    if text[at] == ";":
        raise ValueError("a semicolon may stand only inside quotes")
    if text.startswith(("--", "/*"), at):
        raise ValueError("comments are not allowed")
    if text[at] == "," and not inside:
        raise ValueError("it is a list; give one expression")


def _skip(text: str, at: int) -> int:
    """The position after the word, literal or character that starts here."""
    char = text[at]
    if char == "'":
        return _end_of_string(text, at, escapes=False)
    if char == '"':
        return _end_of_quotes(text, at, '"')
    if char == "$" and (tag := _DOLLAR.match(text, at)):
        end = text.find(tag.group(), tag.end())
        if end < 0:
            raise ValueError(f"the text that starts with {tag.group()} does not end")
        return end + len(tag.group())
    if word := _WORD.match(text, at):
        # E'…' knows backslash escapes; for the other prefixes (U&, B, X, N) the quote alone decides.
        if word.group() in ("e", "E") and text.startswith("'", word.end()):
            return _end_of_string(text, word.end(), escapes=True)
        return word.end()
    return at + 1


def _end_of_string(text: str, at: int, *, escapes: bool) -> int:
    end = _end_of_escapes(text, at) if escapes else _end_of_quotes(text, at, "'")
    gap = _CONTINUED.match(text, end)
    # 'a' <newline> 'b' is one literal, and the second half keeps the escape rules of the first.
    if gap and "\n" in gap.group().replace("\r", "\n"):
        raise ValueError("a quoted text may not be continued on the next line; join the parts with ||")
    return end


def _end_of_quotes(text: str, at: int, quote: str) -> int:
    while True:
        at = text.find(quote, at + 1)
        if at < 0:
            raise ValueError(f"a {quote} is not closed")
        if not text.startswith(quote, at + 1):
            return at + 1
        at += 1


def _end_of_escapes(text: str, at: int) -> int:
    at += 1
    while at < len(text):
        if text[at] == "\\" or text.startswith("''", at):
            at += 2
        elif text[at] == "'":
            return at + 1
        else:
            at += 1
    raise ValueError("a ' is not closed")


# Refused whatever their volatility says: they change settings, read files or other sessions,
# run a text as SQL, or reach another server.
DENIED = (
    r"^(set_config|dblink.*|lo_.*|lo(read|write)|pg_(read|write|stat)_(binary_)?file.*|pg_ls_.*|pg_file_.*"
    r"|pg_execute_server_program|pg_reload_conf|pg_rotate_logfile|pg_(terminate|cancel)_backend|pg_sleep.*|pg_notify"
    r"|pg_(try_)?advisory_.*|pg_stat_get_(activity|backend.*|wal.*|progress.*)|pg_stat_reset.*|pg_stat_statements.*"
    r"|(query|table|schema|database|cursor)_to_xml.*|ts_stat|ts_rewrite|pg_export_snapshot|pg_current_logfile"
    r"|pg_hba_file_rules|pg_show_all_(file_)?settings|pg_config|pg_log_backend_memory_contexts|setval|nextval"
    r"|pg_logical_.*|pg_replication_.*|pg_create_.*|pg_drop_.*|pg_promote|pg_switch_wal"
    r"|pg_prepared_statement|pg_cursor|pg_lock_status|pg_blocking_pids"
    # Names of other apps' roles and databases, what the server does for them, and how it is set up.
    r"|pg_get_userbyid|pg_describe_object|pg_identify_object.*|(sh)?obj_description|pg_stat_.*|pg_get_replication.*"
    r"|pg_get_publication.*|.*current_xact.*|pg_database_size|pg_tablespace_.*|version|inet_(client|server)_.*"
    r"|pg_postmaster_start_time|pg_conf_load_time|pg_control_.*|pg_options_to_table|reg[a-z]+(in|out|send|recv)"
    r"|to_reg[a-z]+|aclexplode|makeaclitem|aclitem.*|pg_has_role|has_[a-z_]+_privilege"
    # They make a text of any length of a few characters.
    r"|repeat|lpad|rpad|array_fill|format)$"
)
# Types whose texts are names out of the catalogs of the whole cluster.
_DENIED_TYPES = r"^(reg[a-z]+|aclitem)$"
# Volatile, and yet without an effect on anything.
_HARMLESS = (
    r"^(random|random_normal|gen_random_uuid|uuid_generate_v[0-9a-z]+|uuidv[0-9]|clock_timestamp|timeofday"
    r"|gen_random_bytes|gen_salt)$"
)

# A tree names its functions by id: of calls, operators, aggregates and window functions, of the
# comparisons inside scalar-array, min/max and row expressions (by operator or family), and of casts
# through text. Any built-in or library function that is volatile counts as having effects.
_UNSAFE = """
with tree as (select t.text from ({trees}) t (text)),
ids as (
    select m[1] as kind, i::oid as id
    from tree, regexp_matches(
        tree.text, ':(funcid|opfuncid|hashfuncid|negfuncid|aggfnoid|winfnoid|opno|opnos) \\(?o? ?([0-9 ]+)', 'g') m,
        regexp_split_to_table(trim(m[2]), ' +') i
),
called as (
    select id from ids where kind not in ('opno', 'opnos')
    union
    select o.oprcode::oid from ids join pg_operator o on o.oid = ids.id where ids.kind in ('opno', 'opnos')
)
select distinct p.proname
from called
join pg_proc p on p.oid = called.id
join pg_language l on l.oid = p.prolang
where p.proname ~ $denied${denied}$denied$
   or (p.provolatile = 'v' and l.lanname in ('internal', 'c') and p.proname !~ $denied${harmless}$denied$)
union
select t.typname
from tree, regexp_matches(tree.text, ':(?:resulttype|consttype|funcresulttype|opresulttype) ([0-9]+)', 'g') m
join pg_type t on t.oid = m[1]::oid
where t.typname ~ $denied${types}$denied$
order by 1
"""


async def unsafe_functions(conn: Connection, trees: str, *args: object) -> list[str]:
    """The names of functions in stored expressions that none may call; empty when all is well.

    ``trees`` is a query, of ours, with one column of node trees (``pg_policy.polqual``,
    ``pg_constraint.conbin``, ``pg_attrdef.adbin``) cast to text, and ``args`` its values.
    Roll the transaction back when the answer is not empty.
    """
    query = _UNSAFE.format(trees=trees, denied=DENIED, harmless=_HARMLESS, types=_DENIED_TYPES)
    return [row["proname"] for row in await conn.fetch(query, *args)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why Postgres did not run a statement. ``depends`` lists what hangs on the object, if that is why."""

    state: str
    message: str
    severity: str
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    depends: str | None = None
    position: int | None = None


# A connection, a lock or a time limit says nothing about the statement: these pass on as they are.
_NOT_OURS = ("08", "40", "53", "55", "57", "58", "XX")


async def refusal_of(conn: Connection, statement: str, *, single: bool = False) -> Refusal | None:
    """Run a statement that changes structure; None when it ran, else what Postgres has against it.

    ``single``: in the form of the protocol in which Postgres itself takes no second statement with it.

    After a refusal the transaction is over, up to the savepoint that the caller set.
    """
    try:
        await (conn.fetch(statement) if single else conn.execute(statement))
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state[:2] in _NOT_OURS:
            raise
        facts: Any = error
        # The primary message names objects. Details may hold values of rows, except where objects depend.
        return Refusal(
            state,
            str(error.args[0] if error.args else ""),
            facts.severity or "ERROR",
            facts.table_name,
            facts.column_name,
            facts.constraint_name,
            facts.detail if state[:2] in ("2B", "0A") else None,
            int(facts.position) if facts.position else None,
        )
    return None
