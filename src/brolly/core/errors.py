"""One error class and one table of codes for every entrance.

A code is never reused. A retired one stays in the table with ``retired=True``.
The envelope (``error_body``) is the same over HTTP, MCP and WebSocket; only the
carrier differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Code:
    """What one error code means: HTTP status, WebSocket close code, default remediation."""

    status: int
    remediation: str
    ws_close: int = 1008
    retired: bool = False


_DOCS = "Read the message, correct the arguments, then repeat the call; butterbase_docs explains each tool."
_SCHEMA_GET = "Call manage_schema with action get to see the tables and columns that exist."

CODES: Mapping[str, Code] = {
    # Validation: the caller can mend it by sending something else.
    "VALIDATION_INVALID_SCHEMA": Code(400, _DOCS),
    "VALIDATION_MISSING_FIELD": Code(400, _DOCS),
    "VALIDATION_INVALID_TYPE": Code(400, _SCHEMA_GET),
    "VALIDATION_COLUMN_NOT_FOUND": Code(400, _SCHEMA_GET),
    "VALIDATION_TABLE_NOT_FOUND": Code(404, _SCHEMA_GET),
    "VALIDATION_INVALID_NAME": Code(400, "Use lower-case letters, digits and underscores, starting with a letter."),
    "VALIDATION_INVALID_INPUT": Code(400, _SCHEMA_GET),
    "VALIDATION_RESERVED_TABLE": Code(400, "Use a table whose name does not start with an underscore."),
    "VALIDATION_INVALID_SCOPE": Code(400, "Call manage_auth_config with action generate_service_key and a scope from the message."),
    "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION": Code(400, "Call select_rows to find the row that already holds this value, or send another value."),
    "VALIDATION_FOREIGN_KEY_VIOLATION": Code(400, "Call select_rows to check that the referenced row exists, and create it first with insert_row."),
    "VALIDATION_CHECK_CONSTRAINT_VIOLATION": Code(400, _SCHEMA_GET),
    "VALIDATION_NOT_NULL_VIOLATION": Code(400, "Send a value for the column named in details, or give it a default with manage_schema apply."),
    # Authentication and permission.
    "AUTH_REQUIRED": Code(401, "Send Authorization: Bearer <service key>; create one with manage_auth_config generate_service_key."),
    "AUTH_INVALID_TOKEN": Code(401, "Send a service key (bb_sk_…) created with manage_auth_config generate_service_key."),
    "AUTH_INVALID_API_KEY": Code(401, "Use a key that manage_api_keys list shows, or create one with manage_auth_config generate_service_key."),
    "AUTH_FORBIDDEN": Code(403, "Use a service key with the scope named in the message; manage_api_keys list shows each key's scopes."),
    "AUTH_INSUFFICIENT_PERMISSIONS": Code(403, "Use a service key with the scope named in the message; manage_api_keys list shows each key's scopes."),
    "AUTH_ORG_FORBIDDEN": Code(403, "Leave organization_id out of init_app to use your own account."),
    "AUTH_RLS_POLICY_VIOLATION": Code(403, "Call manage_rls with action list to see the policies of this table."),
    "AUTH_RLS_REQUIRES_USER_JWT": Code(403, "Repeat as a signed-in user: select_rows and insert_row take as_role user with as_user."),
    "AUTH_IMPERSONATION_FORBIDDEN": Code(403, "Call select_rows with as_role and as_user using a service key."),
    # Resources.
    "RESOURCE_NOT_FOUND": Code(404, "Call manage_app with action list to see the apps that this key can manage."),
    "RESOURCE_ALREADY_EXISTS": Code(409, "Choose another name, or call manage_app list to find the existing one."),
    "RESOURCE_CONFLICT": Code(409, "Read the current state with manage_schema get, then repeat the call."),
    # Quotas and limits.
    "QUOTA_EXCEEDED": Code(429, "Remove something that is no longer needed; manage_app list shows what exists."),
    "QUOTA_RATE_LIMIT": Code(429, "Wait for the number of seconds in Retry-After, then repeat the call; query_audit_logs shows what ran."),
    "QUOTA_TABLE_LIMIT": Code(400, "Drop a table with manage_schema apply and _drop, or split the data over several apps with init_app."),
    "REQUEST_TOO_LARGE": Code(413, "Send fewer rows per call; seed_database takes up to 100 rows."),
    # State.
    "STATE_PREREQUISITE_MISSING": Code(409, "Call manage_schema with action dry_run to see each blocked step and what would unblock it."),
    "CONFIRMATION_REQUIRED": Code(409, "Ask the user, then repeat the manage_app call (or the same tool) with confirm: true."),
    "APP_PAUSED": Code(503, "Resume it with manage_app, action pause, paused: false.", ws_close=1013),
    "APP_PROVISIONING": Code(409, "Repeat the call in a second; manage_app list shows provisioning_status."),
    "APP_DELETING": Code(410, "Create a new app with init_app."),
    # Schema and row-level security.
    "SCHEMA_MIGRATION_FAILED": Code(400, "Nothing was changed; correct the document and try manage_schema dry_run first."),
    "RLS_TYPE_MISMATCH": Code(400, "Cast current_user_id() to the column's type, for example user_id = current_user_id()::uuid, then repeat manage_rls create_policy."),
    "RLS_INVALID_EXPRESSION": Code(400, "Correct the expression; manage_schema get shows the columns, manage_rls list the policies that work."),
    "RLS_UNSAFE_EXPRESSION": Code(400, "Use only columns, operators, current_user_id() and sub-selects in manage_rls create_policy."),
    # What lies outside this process.
    "EXTERNAL_DB_ERROR": Code(503, "Wait a few seconds and repeat the call; if it persists, ask the operator to run brolly status; list_regions answers without the database.", ws_close=1013),
    "DATABASE_TIMEOUT": Code(504, "Narrow the query with filters and a smaller limit in select_rows, or add an index with manage_schema apply.", ws_close=1013),
    # The server itself.
    "CONFIG_INVALID": Code(500, "Correct the setting named in the message; brolly serve --help lists them all."),
    "REQUEST_ERROR": Code(400, _DOCS),
    "INTERNAL_ERROR": Code(500, "Repeat the call once; if it persists, report it with submit_suggestion and the error id.", ws_close=1011),
}  # fmt: skip


class AppError(Exception):
    """A failure with a code from ``CODES``, worded for the caller.

    ``message`` says what was wrong, ``remediation`` what to do next (default: the
    table's), ``details`` carries data. ``retry_after`` (seconds) becomes the header
    ``Retry-After``. Secrets and SQL text never go into any of them.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        remediation: str | None = None,
        details: Any = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remediation = remediation or CODES[code].remediation
        self.details = details
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status of this error's code."""
        return CODES[self.code].status


def error_body(error: AppError, public_url: str = "") -> dict[str, Any]:
    """The envelope ``{"error": {code, message, remediation, documentation_url, details?}}``."""
    slug = error.code.lower().replace("_", "-")
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "remediation": error.remediation,
        "documentation_url": f"{public_url}/docs/errors#{slug}",
    }
    if error.details is not None:
        body["details"] = error.details
    return {"error": body}
