"""The mistakes that models make most: message and remediation alone lead to the call that works.

Each row is the wrong call, the words that say what to change, and the call that a reader of those words makes next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from brolly.apps import provision
from brolly.deps import Deps
from tests.conftest import McpCall, ToolFailed, hold_open, make_owner, mcp_session

Call = tuple[str, dict[str, Any]]
NAME = "mistaken"
TEXT, ID = {"type": "text"}, {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"}
NOTES: dict[str, Any] = {
    "notes": {"columns": {"id": ID, "title": TEXT, "owner": {"type": "uuid"}, "n": {"type": "integer"}}}
}
GOOD_CODE = "export async function handler(request, ctx) { return new Response('ok'); }"
CODE = {"name": "hello", "code": GOOD_CODE}
SELECT: Call = ("select_rows", {"table": "notes", "filters": {"title": "eq.a"}})
INSERT: Call = ("insert_row", {"table": "notes", "data": {"title": "a"}})
GET: Call = ("manage_schema", {"action": "get"})
LIST: Call = ("manage_app", {"action": "list"})
POLICY = {
    "action": "create_policy", "table_name": "notes", "policy_name": "own", "command": "SELECT", "role": "user",
}  # fmt: skip
OWN = "owner = current_user_id()::uuid"


def apply(**tables: Any) -> Call:
    return "manage_schema", {"action": "apply", "schema": {"tables": tables}}


def column(table: str, **definition: Any) -> Call:
    return apply(**{table: {"columns": {"id": ID, "x": definition}}})


APPLY = apply(**NOTES)
FORM = ("title", 'column: "op.value"', "eq")
MISTAKES: list[tuple[str, Call, tuple[str, ...], Call]] = [
    # Tools that there are not: other products', older versions', actions taken for tools.
    ("apply_schema", ("apply_schema", {"schema": {}}), ("manage_schema", "apply"), APPLY),
    ("create_table", ("create_table", {"name": "notes"}), ("manage_schema", "apply"), APPLY),
    ("apply_migration", ("apply_migration", {"query": "create"}), ("manage_schema", "apply"), APPLY),
    ("list_tables", ("list_tables", {}), ("manage_schema", "get"), GET),
    ("get_schema", ("getSchema", {}), ("manage_schema", "get"), GET),
    ("execute_sql", ("execute_sql", {"query": "select 1"}), ("select_rows", "filters"), SELECT),
    ("run_sql", ("run_sql", {"sql": "select 1"}), ("select_rows", "filters"), SELECT),
    ("query", ("query", {"table": "notes"}), ("select_rows", "filters"), SELECT),
    ("insert", ("insert_rows", {"rows": []}), ("insert_row", "data"), INSERT),
    ("list_projects", ("list_projects", {}), ("manage_app", "list"), LIST),
    ("create_policy", ("create_policy", {}), ("manage_rls", "create_policy"), ("manage_rls", {
        **POLICY, "using_expression": OWN})),
    ("list_functions", ("list_functions", {}), ("manage_function", "list"), ("manage_function", {"action": "list"})),
    ("deploy", ("deploy_edge_function", CODE), ("deploy_function", "code"), ("deploy_function", CODE)),
    ("create_function", ("create_function", CODE), ("deploy_function", "code"), ("deploy_function", CODE)),
    ("call_function", ("call_function", {"name": "hello"}), ("invoke_function", "function_name"), (
        "invoke_function", {"function_name": "hello"})),
    ("search", ("search_documents", {"q": "x"}), ("rag_query", "manage_rag_content"), (
        "manage_rag_content", {"action": "list_collections"})),
    ("deploy_site", ("deploy_frontend", {}), ("create_frontend_deployment", "uploadUrl"), (
        "create_frontend_deployment", {})),
    ("chat", ("chat_completion", {}), ("manage_ai", "chat"), ("manage_ai", {"action": "list_models"})),
    # Actions and parameters.
    ("wrong action", ("manage_schema", {"action": "list"}), ("get", "apply"), GET),
    ("no action", ("manage_schema", {}), ("action", "get"), GET),
    ("camel action", ("manage_rls", {"action": "createPolicy"}), ("create_policy",), ("manage_rls", {
        **POLICY, "using_expression": OWN})),
    ("no app", ("manage_schema", {"action": "get", "app_id": None}), ("app_id is missing",), GET),
    ("name for id", ("manage_schema", {"action": "get", "app_id": NAME}), ("app_id", "manage_app list"), GET),
    ("camel", ("select_rows", {"tableName": "notes"}), ("tableName does not belong here", "table"), (
        "select_rows", {"table": "notes"})),
    ("camel app", ("select_rows", {"appId": "x", "table": "notes"}), ("appId", "app_id"), (
        "select_rows", {"table": "notes"})),
    ("unknown", ("select_rows", {"table": "notes", "where": {}}), ("where does not belong", "filters"), SELECT),
    ("sql where", ("select_rows", {"table": "notes", "columns": ["title"]}), ("columns", "select"), (
        "select_rows", {"table": "notes", "select": "title"})),
    ("select list", ("select_rows", {"table": "notes", "select": ["id", "title"]}), ("select", "id,title"), (
        "select_rows", {"table": "notes", "select": "id,title"})),
    ("=value", ("select_rows", {"table": "notes", "filters": {"title": "a"}}), ("title", "eq"), SELECT),
    ("text number", ("select_rows", {"table": "notes", "limit": "many"}), ("limit", "whole number"), (
        "select_rows", {"table": "notes", "limit": 5})),
    ("data as text", ("insert_row", {"table": "notes", "data": "title=a"}), ("data", "object"), INSERT),
    ("rows in row", ("insert_row", {"table": "notes", "data": [{"title": "a"}]}), ("data", "object"), INSERT),
    ("values", ("insert_row", {"table": "notes", "values": {"title": "a"}}), ("values", "data"), INSERT),
    # Filters.
    ("bare", ("select_rows", {"table": "notes", "filters": {"title": ["a"]}}), ("title", "eq"), SELECT),
    ("$eq", ("select_rows", {"table": "notes", "filters": {"title": {"$eq": "a"}}}), FORM, SELECT),
    ("=", ("select_rows", {"table": "notes", "filters": {"title": {"=": "a"}}}), FORM, SELECT),
    ("filter list", ("select_rows", {"table": "notes", "filters": [{"title": "a"}]}), ("filters", "object"), SELECT),
    ("no column", ("select_rows", {"table": "notes", "filters": {"titel": "eq.a"}}), ("titel", "title"), SELECT),
    ("no table", ("select_rows", {"table": "note"}), ("note", "notes"), ("select_rows", {"table": "notes"})),
    ("sort", ("select_rows", {"table": "notes", "sort": "title"}), ("sort", "order"), (
        "select_rows", {"table": "notes", "order": "title"})),
    ("no uuid", ("insert_row", {"table": "notes", "data": {"owner": "ann"}}), ("owner", "uuid"), (
        "insert_row", {"table": "notes", "data": {"owner": str(uuid4())}})),
    ("extra column", ("insert_row", {"table": "notes", "data": {"titel": "a"}}), ("titel", "title"), INSERT),
    # Documents of tables.
    ("string", column("t0", type="string"), ("string", "text"), column("t0", type="text")),
    ("datetime", column("t1", type="datetime"), ("datetime", "timestamptz"), column("t1", type="timestamptz")),
    ("type list", column("t2", type=["text"]), ("type", "text"), column("t2", type="text")),
    ("default", apply(d={"columns": {"id": ID, "x": {"type": "text", "default": "draft mode"}}}), ("default", "'"),
        apply(d={"columns": {"id": ID, "x": {"type": "text", "default": "'draft mode'"}}})),
    ("references", apply(r={"columns": {"id": ID, "note": {"type": "uuid", "references": "note.id"}}}),
        ("note", "notes"), apply(r={"columns": {"id": ID, "note": {"type": "uuid", "references": "notes.id"}}})),
    ("foreignKey", apply(f={"columns": {"id": ID, "note": {"type": "uuid", "foreignKey": "notes.id"}}}),
        ("foreignKey", "references"),
        apply(f={"columns": {"id": ID, "note": {"type": "uuid", "references": "notes.id"}}})),
    ("primary_key", apply(p={"columns": {"id": {"type": "uuid", "primary_key": True}}}), ("primary_key", "primaryKey"),
        apply(p={"columns": {"id": ID}})),
    ("not_null", apply(q={"columns": {"id": ID, "x": {"type": "text", "notNull": True}}}), ("notNull", "nullable"),
        apply(q={"columns": {"id": ID, "x": {"type": "text", "nullable": False}}})),
    ("column list", apply(c={"columns": [{"name": "id", "type": "uuid"}]}), ("columns", "object"),
        apply(c={"columns": {"id": ID}})),
    ("capital", apply(Notes={"columns": {"id": ID}}), ("Notes", "notes"), APPLY),
    ("tables outside", ("manage_schema", {"action": "apply", "schema": NOTES}), ("notes", "tables"), APPLY),
    # Row-level security.
    ("no rls table", ("manage_rls", {"action": "enable", "table_name": "note"}), ("note", "notes"), (
        "manage_rls", {"action": "enable", "table_name": "notes"})),
    ("auth.uid", ("manage_rls", {**POLICY, "using_expression": "auth.uid() = owner"}), ("current_user_id()",), (
        "manage_rls", {**POLICY, "using_expression": OWN})),
    ("uuid text", ("manage_rls", {**POLICY, "using_expression": "owner = current_user_id()"}), (
        "owner = current_user_id()::uuid",), ("manage_rls", {**POLICY, "using_expression": OWN})),
    ("authenticated", ("manage_rls", {**POLICY, "role": "authenticated", "using_expression": OWN}), ("role", "user"), (
        "manage_rls", {**POLICY, "using_expression": OWN})),
    ("table", ("manage_rls", {"action": "enable", "table": "notes"}), ("table_name",), (
        "manage_rls", {"action": "enable", "table_name": "notes"})),
    # Functions.
    ("no handler", ("deploy_function", {"name": "hello", "code": "Deno.serve(() => new Response('ok'))"}), (
        "export", "handler"), ("deploy_function", CODE)),
    ("cron", ("deploy_function", {**CODE, "trigger": {"type": "cron", "config": {"schedule": "0 0 9 * * *"}}}), (
        "five", "schedule"), ("deploy_function", {**CODE, "trigger": {
            "type": "cron", "config": {"schedule": "0 9 * * *"}}})),
    ("call", ("invoke_function", {"function_name": "helo"}), ("helo", "manage_function list"), (
        "invoke_function", {"function_name": "hello"})),
]  # fmt: skip


@pytest.fixture(scope="module")
async def try_call(deps: Deps) -> AsyncIterator[McpCall]:
    """Calls in an app with a table and a function."""
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, NAME, "self-hosted")
    call, close = await hold_open(mcp_session(deps, owner))

    async def in_app(call_: Call) -> Any:
        tool, arguments = call_
        given = {} if call_ == LIST else {"app_id": app_id}
        return await call(tool, **{k: v for k, v in {**given, **arguments}.items() if v is not None})

    await in_app(APPLY)
    await in_app(("deploy_function", CODE))
    await in_app(("manage_rls", {"action": "enable", "table_name": "notes"}))
    yield in_app
    await close()
    await provision.delete(deps, await deps.registry.get(owner, app_id))


@pytest.mark.parametrize(("wrong", "needles", "right"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
async def test_the_answer_to_a_mistake_says_the_right_call(
    try_call: McpCall, wrong: Call, needles: tuple[str, ...], right: Call
) -> None:
    with pytest.raises(ToolFailed) as failed:
        await try_call(wrong)
    said = f"{failed.value.error['message']} {failed.value.error['remediation']}"
    assert [needle for needle in needles if needle not in said] == [], said
    if right[1].get("policy_name"):
        listed = await try_call(("manage_rls", {"action": "list"}))
        if any(policy.get("policy_name") == "own" for policy in listed["policies"]):
            await try_call(("manage_rls", {"action": "delete", "table_name": "notes", "policy_name": "own"}))
    await try_call(right)
