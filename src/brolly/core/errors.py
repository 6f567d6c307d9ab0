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
    """What one error code means: HTTP status, default remediation, meaning, WebSocket close code."""

    status: int
    remediation: str
    meaning: str = ""
    ws_close: int = 1008
    retired: bool = False


_DOCS = "Read the message, correct the arguments, then repeat the call; butterbase_docs explains each tool."
_SCHEMA_GET = "Call manage_schema with action get to see the tables and columns that exist."

CODES: Mapping[str, Code] = {
    # Validation: the caller can mend it by sending something else.
    "VALIDATION_INVALID_SCHEMA": Code(400, _DOCS, "An argument is unknown, has the wrong form, or does not go with the others."),
    "VALIDATION_MISSING_FIELD": Code(400, _DOCS, "An argument that this action needs is missing."),
    "VALIDATION_INVALID_TYPE": Code(400, _SCHEMA_GET, "A value or column does not have the type that is needed here."),
    "VALIDATION_COLUMN_NOT_FOUND": Code(400, _SCHEMA_GET, "The table has no column of that name."),
    "VALIDATION_TABLE_NOT_FOUND": Code(404, _SCHEMA_GET, "The app has no table of that name."),
    "VALIDATION_INVALID_NAME": Code(400, "Use lower-case letters, digits and underscores, starting with a letter; manage_schema get shows the names in use.", "The name has characters or a length that are not allowed."),
    "VALIDATION_INVALID_INPUT": Code(400, _SCHEMA_GET, "The database cannot read the value as the column's type."),
    "VALIDATION_DUPLICATE_NAME": Code(409, "Choose another name; manage_rag_content list_collections shows those in use.", "There is one of that name already."),
    "VALIDATION_RESERVED_TABLE": Code(400, "Use a table whose name does not start with an underscore; manage_schema get lists them.", "The table belongs to the platform."),
    "VALIDATION_INVALID_SCOPE": Code(400, "Repeat manage_auth_config generate_service_key with what the message allows.", "A service key cannot be given that scope."),
    "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION": Code(400, "Call select_rows to find the row that already holds this value, or send another value.", "Another row already holds this value in a unique column."),
    "VALIDATION_FOREIGN_KEY_VIOLATION": Code(400, "Call select_rows to check that the referenced row exists, and create it first with insert_row.", "The row refers to a row that does not exist, or is still referred to."),
    "VALIDATION_CHECK_CONSTRAINT_VIOLATION": Code(400, _SCHEMA_GET, "A value breaks a check of the table."),
    "VALIDATION_NOT_NULL_VIOLATION": Code(400, "Send a value for the column named in details, or give it a default with manage_schema apply.", "A column that must have a value got none."),
    # Authentication and permission.
    "AUTH_REQUIRED": Code(401, "Send Authorization: Bearer <service key>. The first is owner.key in the data folder; brolly keys create NAME makes one on the server's machine, and manage_auth_config generate_service_key for who has one.", "The request has no credentials, and needs them."),
    "AUTH_INVALID_TOKEN": Code(401, "Send a service key (bb_sk_…): brolly keys create NAME makes one on the server's machine, and manage_auth_config generate_service_key for who has one.", "The Authorization header does not hold a credential of a known form."),
    "AUTH_INVALID_API_KEY": Code(401, "Send a key that is valid: brolly keys create NAME makes one on the server's machine; with another key, manage_api_keys list shows which there are.", "The service key is unknown, revoked or expired."),
    "AUTH_FORBIDDEN": Code(403, "Use a service key with the scope named in the message; manage_api_keys list shows each key's scopes.", "The credentials are valid but do not allow this."),
    "AUTH_ORG_FORBIDDEN": Code(403, "Leave organization_id out of init_app to use your own account.", "The key does not belong to the organization named."),
    "AUTH_RLS_POLICY_VIOLATION": Code(403, "Call manage_rls with action list to see the policies of this table.", "Row-level security does not let this caller do that to this row or table."),
    "AUTH_RLS_REQUIRES_USER_JWT": Code(403, "Repeat as a signed-in user: select_rows and insert_row take as_role user with as_user.", "A policy needs a signed-in user, and there is none."),
    "AUTH_IMPERSONATION_DISABLED": Code(403, "Deploy the function with deploy_function and allow_service_key_impersonation: true.", "The function lets no service key act as a user."),
    "AUTH_IMPERSONATION_FORBIDDEN": Code(403, "Call select_rows with as_role and as_user using a service key.", "Only a service key may act as another role."),
    # End users' sign-in.
    "AUTH_INVALID_END_USER_JWT": Code(401, "Sign in again at POST /auth/{app_id}/login and send its access_token; manage_auth_users list shows who can.", "The access token was not signed by this app, is for another one, or is malformed."),
    "AUTH_END_USER_JWT_EXPIRED": Code(401, "Renew it at POST /auth/{app_id}/refresh; manage_auth_config update_jwt sets how long tokens live.", "The access token was valid and has expired."),
    "AUTH_INVALID_CREDENTIALS": Code(401, "Correct address or password, or reset it at POST /auth/{app_id}/forgot-password; manage_auth_users list shows who can sign in.", "There is no such account, or the password is another; which of the two is not told."),
    "AUTH_INVALID_REFRESH_TOKEN": Code(401, "Sign in again at POST /auth/{app_id}/login; a refresh token is good for one use, and manage_auth_config update_jwt sets how long.", "The refresh token is unknown, expired or was used before; a second use ends its session."),
    "AUTH_INVALID_CODE": Code(400, "Ask for a new code: each is good for one use and five tries; butterbase_docs explains it under auth.", "The code or token is wrong, was used, or has expired; which of them is not told."),
    "MFA_REQUIRED": Code(403, "Send mfa_token and a code to POST /auth/{app_id}/mfa/verify; butterbase_docs explains it under auth.", "The password was right, and the account has a second factor."),
    "ACCOUNT_LOCKED": Code(403, "Wait for the number of seconds in Retry-After, reset the password, or call manage_auth_users update with locked: false.", "Ten attempts in a row failed; for half an hour none is looked at, for accounts that do not exist as well."),
    "ACCOUNT_DISABLED": Code(403, "Ask the app's owner, who can call manage_auth_users update with disabled: false.", "The app's owner has disabled this account."),
    "OAUTH_STATE_INVALID": Code(400, "Begin again at GET /auth/{app_id}/oauth/{provider} in the browser that is to be signed in, at the same address of the server; manage_oauth get shows the providers.", "A sign-in through a provider came back that did not begin in this browser in the last ten minutes, or was used before."),
    "OAUTH_PROVIDER_ERROR": Code(400, "Begin again; if it persists, compare manage_oauth get with what the provider's console shows, and correct it with manage_oauth update.", "The provider did not let the user in, or its answer does not prove who it is; details.provider_error is its own word for it."),
    "OAUTH_PROVIDER_UNAVAILABLE": Code(503, "Begin again in a minute; manage_oauth get shows the addresses that were called.", "The sign-in provider cannot be reached, or does not answer in time."),
    "OAUTH_EMAIL_NOT_VERIFIED": Code(409, "Sign in as before with this address, or get a code at POST /auth/{app_id}/magic-link; manage_auth_users get shows through which providers a user signs in.", "An account with this address exists, and the provider does not say that the address belongs to who signs in."),
    "OAUTH_IDENTITY_ALREADY_LINKED": Code(409, "Sign in with the account at the provider that was used first; manage_auth_users get shows which it is.", "The account with this address belongs to another person of the same provider."),
    "VALIDATION_WEAK_PASSWORD": Code(400, "Choose one of 8 to 256 characters with upper case, lower case, a digit and another sign; butterbase_docs has the rules under auth.", "The password does not fulfil the rules."),
    "RESOURCE_ALREADY_EXISTS": Code(409, "Sign in instead, or reset the password; manage_auth_users list shows who can sign in.", "An account with this address exists already."),
    # Resources.
    "RESOURCE_NOT_FOUND": Code(404, "Call manage_app with action list to see the apps that this key can manage.", "It does not exist, or this caller may not see it."),
    "RESOURCE_CONFLICT": Code(409, "Read the current state with manage_schema get, then repeat the call.", "Another change happened at the same time; nothing was done."),
    "RESULT_NOT_SINGLE": Code(406, "Narrow the filters to one row, or leave out Accept: application/vnd.pgrst.object+json; select_rows shows what there is.", "One row was asked for, and there are none or several; a write did nothing."),
    "RESULT_TOO_MANY_AFFECTED": Code(400, "Narrow the filters, or raise max-affected; select_rows shows which rows they choose.", "The write would have reached more rows than max-affected allows; nothing was done."),
    "COLLECTION_EMPTY": Code(409, "Add documents with manage_rag_content ingest_document, or wait until get_document_status says ready.", "No document of the collection is ready to be searched."),
    # Quotas and limits.
    "QUOTA_RATE_LIMIT": Code(429, "Wait for the number of seconds in Retry-After, then repeat the call; query_audit_logs shows what ran.", "Too many calls in a short time.", ws_close=1013),
    "QUOTA_FILE_SIZE_EXCEEDED": Code(400, "Send a smaller file, or raise maxFileSizeMb with manage_storage update_config.", "The file is larger than the app allows."),
    "QUOTA_STORAGE_EXCEEDED": Code(429, "Delete files with manage_storage delete (list shows them), or raise storageLimitBytes with manage_storage update_config.", "The app's files, with those being uploaded, would be more than it may hold together."),
    "QUOTA_TABLE_LIMIT": Code(400, "Drop a table with manage_schema apply and _drop, or split the data over several apps with init_app.", "An app may have 50 tables."),
    "REQUEST_TOO_LARGE": Code(413, "Send fewer rows per call; seed_database takes up to 100 rows.", "The body is larger than this server accepts."),
    "REALTIME_CONNECTION_LIMIT": Code(429, "Close sockets that are not needed; manage_realtime get shows whether any are open, and the operator can raise BROLLY_REALTIME_APP_SOCKETS.", "There are as many sockets, subscriptions or channels as may be.", ws_close=1013),
    # State.
    "STATE_PREREQUISITE_MISSING": Code(409, "Call manage_schema with action dry_run to see each blocked step and what would unblock it.", "The change would lose something, or needs something that must be done first."),
    "STATE_INVALID_TRANSITION": Code(409, "See where it stands with manage_frontend list_deployments.", "What the call asks for does not follow from the state that the thing is in."),
    "CONFIRMATION_REQUIRED": Code(409, "Ask the user, then repeat this call with confirm: true, as in manage_app delete.", "The action loses something for good and waits for the user's word."),
    "APP_PAUSED": Code(503, "Resume it with manage_app, action pause, paused: false.", "The app's owner has stopped it; management still works, its data does not answer.", ws_close=1013),
    "APP_PROVISIONING": Code(409, "Repeat the call in a second; manage_app list shows provisioning_status.", "The app is still being created.", ws_close=1013),
    "APP_DELETING": Code(410, "Create a new app with init_app.", "The app is being deleted."),
    "REALTIME_SINCE_EXPIRED": Code(410, "Read the rows anew (select_rows, or GET /v1/{app_id}/{table}), then subscribe without since; BROLLY_REALTIME_RETENTION is how many seconds changes are kept.", "Changes after the one named in since are not kept any more, so that not all of them can be delivered.", ws_close=4410),
    # Schema and row-level security.
    "SCHEMA_MIGRATION_FAILED": Code(400, "Nothing was changed; correct the document and try manage_schema dry_run first.", "The database refused the change of structure; all of it was undone."),
    "RLS_TYPE_MISMATCH": Code(400, "Cast current_user_id() to the column's type, for example user_id = current_user_id()::uuid, then repeat manage_rls create_policy.", "A policy's expression compares values of different types."),
    "RLS_INVALID_EXPRESSION": Code(400, "Correct the expression; manage_schema get shows the columns, manage_rls list the policies that work.", "The database cannot read the policy's expression."),
    "RLS_UNSAFE_EXPRESSION": Code(400, "Use only columns, operators, current_user_id() and sub-selects in manage_rls create_policy.", "A policy's expression uses something that could undo the protection."),
    "FUNCTION_RAISED": Code(400, "The app's own function refused the call, for the reason in the message; manage_schema get shows its body.", "A function of the app raised an exception; with SQLSTATE PT and three digits, those are the HTTP status."),
    # What lies outside this process.
    "EXTERNAL_DB_ERROR": Code(503, "Wait a few seconds and repeat the same call (manage_app list shows whether all is well again); if it persists, ask the operator to run brolly status.", "The database does not answer at the moment.", ws_close=1013),
    "DATABASE_TIMEOUT": Code(504, "Narrow the query with filters and a smaller limit in select_rows, or add an index with manage_schema apply.", "The statement took too long, or waited too long for a lock, and was ended.", ws_close=1013),
    "S3_ERROR": Code(503, "Repeat the same call in a few seconds, nothing was half done (manage_app list shows whether the rest works); if it persists, ask the operator to run brolly status.", "The object store, a folder or an S3 service, does not answer, is full or refuses the server.", ws_close=1013),
    "EXTERNAL_NETWORK_ERROR": Code(502, "Repeat the call if that does no harm; manage_function get_logs shows what the function did.", "The process that runs the app's functions ended during the call, for example for want of memory."),
    "FUNCTION_FAILED": Code(500, "Read what it threw with manage_function get_logs, correct the code and repeat deploy_function.", "The app's function threw an error."),
    "FUNCTION_MEMORY": Code(500, "Hold less at once, for example by reading rows in pages, or raise memoryLimitMb with deploy_function.", "The function took more memory than it may have, and was ended with its calls; other functions went on."),
    "FUNCTION_TIMEOUT": Code(504, "Make the function faster or raise its timeoutMs with deploy_function; manage_function get_logs shows what it did.", "The function did not answer within its time, and was ended."),
    "FUNCTION_BUSY": Code(429, "Wait for the number of seconds in Retry-After, then repeat the call; manage_function get_logs shows what is running long.", "As many calls of the app's functions run at once as are allowed."),
    # Models.
    "NO_MODEL": Code(400, "Name a model as provider/model; manage_ai list_models shows which there are, and manage_ai update_config sets defaultModel.", "No model was named, and there is no default."),
    "MODEL_NOT_FOUND": Code(404, "Call manage_ai with action list_models for the models that there are.", "No provider of this app has that model."),
    "MODEL_NOT_ALLOWED": Code(403, "Use a model of the app's list, or change allowedModels with manage_ai update_config.", "The app's owner allows certain models only."),
    "MODEL_UNAVAILABLE": Code(503, "Repeat the call in a few seconds, or name another model; manage_ai list_models shows them.", "The provider does not answer, refuses the server's key, or has no room at the moment."),
    "MODEL_TIMEOUT": Code(504, "Repeat the call, ask for less with max_tokens, or use a faster model; manage_ai list_models shows them.", "The provider did not answer in time, or stopped in the middle."),
    "MODEL_BROKEN_ANSWER": Code(502, "Repeat the call, or use another model; manage_ai list_models shows them.", "What the provider sent cannot be read, or ended too early."),
    "INSUFFICIENT_CREDITS": Code(402, "Raise spendingCapUsd with manage_ai update_config; manage_ai get_usage shows what was spent.", "The call could cost more than is left of the app's spending cap for this month."),
    # The server itself.
    "CONFIG_INVALID": Code(500, "Correct the setting named in the message; brolly serve --help lists them all.", "The server is configured in a way that cannot work."),
    "INTERNAL_ERROR": Code(500, "Repeat the call once; if it persists, report it with submit_suggestion and the error id.", "Something went wrong in the server; its log holds the details under the error id.", ws_close=1011),
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
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remediation = remediation or CODES[code].remediation
        self.details = details
        self.retry_after = retry_after
        self._status = status

    @property
    def status(self) -> int:
        """The HTTP status: of this error's code, unless the app itself chose one."""
        return self._status or CODES[self.code].status

    @property
    def ws_close(self) -> int:
        """The code with which a WebSocket closes for this error."""
        return CODES[self.code].ws_close


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
