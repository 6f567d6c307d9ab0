"""Postgres errors become ours here and nowhere else, by SQLSTATE. SQL text never leaves."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import asyncpg

from brolly.core.errors import AppError

RETRY_AFTER = 2
# asyncpg's own words for arguments that it cannot send, which are no lost connection.
_BAD_ARGUMENT = re.compile(r"invalid input for query argument|number of query arguments|expects \d+ arguments?")
_COLUMN_IN_DETAIL = re.compile(r"Key \((.+?)\)=")
# A text that is no tsvector is told as a syntax error, though it is a value like any other.
_NO_TSVECTOR = ("syntax error in ts", "there is no escaped character")

_BY_STATE = {
    "23505": "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION",
    "23503": "VALIDATION_FOREIGN_KEY_VIOLATION",
    "23514": "VALIDATION_CHECK_CONSTRAINT_VIOLATION",
    "23502": "VALIDATION_NOT_NULL_VIOLATION",
    "23P01": "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION",
    "42501": "AUTH_RLS_POLICY_VIOLATION",
    "57014": "DATABASE_TIMEOUT",
    "55P03": "DATABASE_TIMEOUT",
    "40001": "RESOURCE_CONFLICT",
    "40P01": "RESOURCE_CONFLICT",
    "42P01": "VALIDATION_TABLE_NOT_FOUND",
    "42703": "VALIDATION_COLUMN_NOT_FOUND",
}


def unavailable() -> AppError:
    """The error for a database that does not answer just now."""
    return AppError(
        "EXTERNAL_DB_ERROR",
        "The database does not answer at the moment.",
        details={"retry_after": RETRY_AFTER},
        retry_after=RETRY_AFTER,
    )


def _details(error: asyncpg.PostgresError) -> dict[str, Any]:
    facts: dict[str, Any] = {"pg_code": error.sqlstate}
    for ours, theirs in (("table", "table_name"), ("column", "column_name"), ("constraint_details", "constraint_name")):
        value = getattr(error, theirs, None)
        if value:
            facts[ours] = value
    if "column" not in facts and (match := _COLUMN_IN_DETAIL.search(str(getattr(error, "detail", "") or ""))):
        facts["column"] = match.group(1)
    return facts


def translate(error: BaseException) -> AppError | None:
    """The ``AppError`` for a database or connection error; None when it is not one of those."""
    if isinstance(error, asyncpg.PostgresError):
        return _from_state(error, error.sqlstate or "")
    if isinstance(error, (asyncpg.DataError, UnicodeError)) or (
        isinstance(error, asyncpg.InterfaceError) and _BAD_ARGUMENT.search(str(error))
    ):
        return AppError("VALIDATION_INVALID_INPUT", "A value is not one that the database can take.")
    # A server that dies in the middle of an answer shows as InternalClientError.
    lost = (asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError, FileNotFoundError, TimeoutError)
    if isinstance(error, lost):
        return unavailable()
    return None


def _from_state(error: asyncpg.PostgresError, state: str) -> AppError | None:
    # 57014 is one statement ended by its time limit; the rest of 57 is a server going down or coming up.
    if (
        state[:2] in ("08", "53", "58")
        or (state[:2] == "57" and state != "57014")
        or state in ("3D000", "28000", "28P01")
    ):
        return unavailable()
    if state == "42501" and "current_user_id" in str(error):
        return AppError("AUTH_RLS_REQUIRES_USER_JWT", "This needs a signed-in user.")
    if state == "25006":
        return AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"A read changes nothing, but a function that it calls would: {error.args[0]}.",
            remediation="Call the function by POST, and let manage_schema apply declare it volatile.",
            details=_details(error),
        )
    if state[:2] in ("P0", "PT", "2F"):
        return _raised(error, state)
    if code := _BY_STATE.get(state):
        return AppError(code, str(error.args[0] if error.args else error), details=_details(error))
    if state[:2] == "22" or (state == "42601" and str(error).startswith(_NO_TSVECTOR)):
        return AppError("VALIDATION_INVALID_INPUT", str(error.args[0]), details=_details(error))
    return None


def _raised(error: asyncpg.PostgresError, state: str) -> AppError:
    """What a function of the app says by ``raise``; its author chose the words, and may choose the status."""
    facts = {"pg_code": state}
    for name in ("detail", "hint"):
        if said := getattr(error, name, None):
            facts[name] = said
    chosen = int(state[2:]) if re.fullmatch("PT[45][0-9]{2}", state) else None
    return AppError("FUNCTION_RAISED", str(error.args[0] if error.args else ""), details=facts, status=chosen)


@contextmanager
def translated() -> Generator[None]:
    """Raise what the block's database errors mean; whatever is not translated passes unchanged."""
    try:
        yield
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error
