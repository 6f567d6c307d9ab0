"""What programs written for PostgREST look for: how they are known, and the error keys that they read.

The error shape stays the one that everybody gets. A PostgREST client takes the whole body for the error, and not
all of them say who they are; so on the routes that they use, the keys that they read stand beside ``error``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from brolly.core.errors import AppError
from brolly.core.reserved import ROUTE_WORDS

OBJECT = "application/vnd.pgrst.object"
ARRAY = "application/vnd.pgrst.array"
_ROWS = re.compile(r"/v1/app_[a-z0-9]+/([^/]+)")
_CLIENTS = ("postgrest", "supabase")

# The codes by which such programs tell errors apart: SQLSTATE where Postgres has one, else PostgREST's own.
_CODES: Mapping[str, str] = {
    "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION": "23505",
    "VALIDATION_FOREIGN_KEY_VIOLATION": "23503",
    "VALIDATION_CHECK_CONSTRAINT_VIOLATION": "23514",
    "VALIDATION_NOT_NULL_VIOLATION": "23502",
    "VALIDATION_COLUMN_NOT_FOUND": "42703",
    "VALIDATION_TABLE_NOT_FOUND": "PGRST205",
    "VALIDATION_INVALID_SCHEMA": "PGRST100",
    "VALIDATION_INVALID_INPUT": "22P02",
    "VALIDATION_INVALID_TYPE": "22P02",
    "RESULT_NOT_SINGLE": "PGRST116",
    "RESULT_TOO_MANY_AFFECTED": "PGRST124",
    "AUTH_RLS_POLICY_VIOLATION": "42501",
    "AUTH_RLS_REQUIRES_USER_JWT": "42501",
    "AUTH_FORBIDDEN": "42501",
    "AUTH_REQUIRED": "PGRST302",
    "AUTH_INVALID_TOKEN": "PGRST301",
    "AUTH_INVALID_END_USER_JWT": "PGRST301",
    "AUTH_END_USER_JWT_EXPIRED": "PGRST303",
    "DATABASE_TIMEOUT": "57014",
    "EXTERNAL_DB_ERROR": "PGRST000",
}


def is_client(headers: Mapping[str, str]) -> bool:
    """Whether the request comes from a program that was written for PostgREST."""
    named = headers.get("x-client-info", "").lower()
    return (
        "application/vnd.pgrst." in headers.get("accept", "")
        or "accept-profile" in headers
        or "content-profile" in headers
        or any(name in named for name in _CLIENTS)
    )


def reads_keys(path: str, headers: Mapping[str, str]) -> bool:
    """Whether who gets an error for that path may look for PostgREST's keys: rows and functions, or a known client."""
    found = _ROWS.match(path)
    return is_client(headers) or (found is not None and (found[1] == "rpc" or found[1] not in ROUTE_WORDS))


def error_keys(error: AppError, path: str = "") -> dict[str, str | None]:
    """``code``, ``message``, ``details`` and ``hint`` as PostgREST has them, all texts."""
    details: Any = error.details
    known: dict[str, Any] = {**details} if isinstance(details, Mapping) else {}
    code = known.get("pg_code") or _CODES.get(error.code, error.code)
    if error.code == "RESOURCE_NOT_FOUND" and (found := _ROWS.match(path)) and found[1] == "rpc":
        code = "PGRST202"
    said = known.get("constraint_details") or known.get("reason") or known.get("pg_detail")
    if said is None and details is not None:
        said = json.dumps(details, ensure_ascii=False, default=str)
    return {
        "code": str(code),
        "message": error.message,
        "details": None if said is None else str(said),
        "hint": error.remediation,
    }
