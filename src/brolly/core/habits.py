"""Tool names that models try by habit, and what to call here instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

_LIST_APPS = "Call manage_app with action list."
_CREATE_APP = "Call init_app with a name."
_APPLY = "Call manage_schema with action dry_run, then apply; what its document leaves out is kept."
_DROP = "Call manage_schema with action apply and _drop in its document."
_GET_SCHEMA = "Call manage_schema with action get."
_SELECT = "Call select_rows with table and filters."
_INSERT = "Call insert_row with table and data, or seed_database for up to 100 rows."
_SQL = "No tool takes SQL: select_rows reads with filters, insert_row stores, manage_schema apply changes tables."
_UPDATE = (
    "No tool changes rows: send PATCH /v1/{app_id}/{table}/{id} over HTTP with the columns to change and a service "
    "key; select_rows finds the id."
)
_DELETE = (
    "No tool deletes rows: send DELETE /v1/{app_id}/{table}/{id} over HTTP with a service key; select_rows finds the "
    "id."
)
_POLICY = "Call manage_rls with action create_user_isolation, or create_policy."
_KEY = "Call manage_auth_config with action generate_service_key."
_UPLOAD = "Call manage_storage with action upload_url, then PUT the bytes to the URL."
_DOWNLOAD = "Call manage_storage with action download_url, then GET the URL."
_DEPLOY = "Call deploy_function with name and code; it replaces the function of that name."
_SITE = (
    "Call create_frontend_deployment, PUT a zip of the built folder to its uploadUrl, then call manage_frontend with "
    "action start_deployment and the deployment_id."
)
_AUDIT = "Call query_audit_logs with app_id."
_DOCS = "Call butterbase_docs with a tool or topic as query."

_INSTEAD: Mapping[str, tuple[str, ...]] = {
    _LIST_APPS: ("list_apps", "list_projects", "get_apps", "apps", "list_databases"),
    _CREATE_APP: ("create_app", "new_app", "create_project", "create_database", "provision_app"),
    "Call manage_app with action get_config.": ("get_app", "get_project", "get_config", "app_status"),
    "Call manage_app with action delete.": ("delete_app", "remove_app", "drop_database", "delete_project"),
    "Call manage_app with action pause.": ("pause_app", "resume_app", "pause_project"),
    "Call manage_app with action update_cors.": ("update_cors", "set_cors", "manage_cors"),
    "Call manage_app with action secure.": ("secure_app",),
    _APPLY: (
        "apply_schema",
        "create_table",
        "create_tables",
        "update_schema",
        "alter_table",
        "add_column",
        "migrate",
        "apply_migration",
        "create_index",
        "dry_run",
    ),
    _DROP: ("drop_table", "delete_table"),
    _GET_SCHEMA: ("get_schema", "list_tables", "describe_table", "show_tables", "read_schema"),
    "Call manage_schema with action list_migrations.": ("list_migrations",),
    _SELECT: ("get_rows", "read_rows", "list_rows", "select", "select_row", "query_rows", "query_table", "get_row"),
    _INSERT: ("insert", "insert_rows", "add_row", "create_row", "bulk_insert", "seed"),
    _SQL: ("query", "execute_sql", "run_sql", "sql", "run_query", "execute_query", "execute"),
    _UPDATE: ("update_row", "update_rows", "upsert_row", "update", "upsert"),
    _DELETE: ("delete_row", "delete_rows", "remove_row", "delete"),
    _POLICY: ("create_policy", "enable_rls", "create_user_isolation", "create_rls_policy", "rls"),
    "Call manage_rls with action list.": ("list_policies",),
    _KEY: ("generate_service_key", "create_api_key", "generate_api_key", "create_key"),
    "Call manage_api_keys with action list.": ("list_api_keys", "list_keys"),
    "Call manage_api_keys with action revoke.": ("revoke_key", "revoke_api_key", "delete_api_key"),
    "Call manage_auth_users with action list.": ("list_users", "get_users", "manage_users"),
    _UPLOAD: ("upload_file", "upload", "create_upload", "generate_upload_url", "put_object", "storage_upload"),
    _DOWNLOAD: ("download_file", "get_file", "generate_download_url", "get_download_url", "get_object"),
    "Call manage_storage with action list.": ("list_files", "list_objects", "list_buckets"),
    "Call manage_storage with action delete.": ("delete_file", "delete_object"),
    _DEPLOY: (
        "create_function",
        "update_function",
        "deploy",
        "deploy_edge_function",
        "create_edge_function",
        "publish_function",
    ),
    "Call invoke_function with function_name and body.": (
        "call_function",
        "run_function",
        "execute_function",
        "invoke",
    ),
    "Call manage_function with action list.": ("list_functions", "list_edge_functions", "get_functions"),
    "Call manage_function with action get and function_name.": ("get_function", "get_edge_function"),
    "Call manage_function with action get_logs and function_name.": ("get_function_logs", "function_logs"),
    "Call manage_function with action delete and function_name.": ("delete_function",),
    _SITE: ("deploy_frontend", "create_deployment", "deploy_site", "deploy_app", "deploy_website", "start_deployment"),
    "Call manage_frontend with action list_deployments.": ("list_deployments", "get_deployment"),
    "Call manage_ai with action chat, model and messages.": ("chat", "chat_completion", "ask_model", "generate_text"),
    "Call manage_ai with action list_models.": ("list_models",),
    "Call rag_query with collection and query; manage_rag_content ingests what it finds.": (
        "search_documents",
        "semantic_search",
        "vector_search",
        "search_collection",
        "query_collection",
    ),
    "Call manage_rag_content with action create_collection, then ingest_document.": (
        "create_collection",
        "ingest_document",
        "upload_document",
        "add_document",
    ),
    "Call manage_realtime with action configure and tables.": ("enable_realtime", "configure_realtime", "subscribe"),
    "Call manage_oauth with action configure and provider.": ("configure_oauth", "add_oauth_provider"),
    _AUDIT: ("get_logs", "audit_logs", "get_audit_logs", "list_logs"),
    _DOCS: ("docs", "search_docs", "help", "get_docs"),
}
INSTEAD: Mapping[str, str] = {name: advice for advice, names in _INSTEAD.items() for name in names}


def instead_of(name: str, names: Sequence[str]) -> str:
    """What to do for a tool that does not exist: a known habit's way, or the tools there are with the nearest first."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    advice = INSTEAD.get(snake)
    # A caller held to some tools is not sent to another.
    if advice is not None and any(re.search(rf"\b{tool}\b", advice) for tool in names):
        return advice
    near = difflib.get_close_matches(snake, names, 1)
    guess = f"Did you mean {near[0]}? " if near else ""
    return f"{guess}The tools are: {', '.join(names)}."
