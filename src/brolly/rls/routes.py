"""HTTP routes of row-level security."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from brolly.core.errors import AppError
from brolly.endpoint import Arguments, endpoint
from brolly.rls.tool import MANAGE_RLS


def _named(arguments: Arguments) -> tuple[str, Arguments]:
    # Some clients repeat the name of the path in the body.
    given = dict(arguments)
    name = given.pop("name")
    if given.setdefault("policy_name", name) != name:
        raise AppError("VALIDATION_INVALID_SCHEMA", "policy_name differs from the name in the path.")
    return "update_policy", given


def _policies(result: dict[str, Any]) -> list[Any]:
    # The published SDK maps over the body, so it is the bare list.
    return result["policies"]


_ONE = "/v1/{app_id}/rls/{table_name}"

routes = [
    Route("/v1/{app_id}/rls", endpoint(MANAGE_RLS, "list", shape=_policies), methods=["GET"]),
    Route("/v1/{app_id}/rls", endpoint(MANAGE_RLS, "create_user_isolation"), methods=["POST"]),
    Route("/v1/{app_id}/rls/enable", endpoint(MANAGE_RLS, "enable"), methods=["POST"]),
    Route("/v1/{app_id}/rls/policies", endpoint(MANAGE_RLS, "create_policy"), methods=["POST"]),
    Route("/v1/{app_id}/rls/policies/{name}", endpoint(MANAGE_RLS, prepare=_named), methods=["PATCH"]),
    Route(_ONE, endpoint(MANAGE_RLS, "delete"), methods=["DELETE"]),
    Route(_ONE + "/{policy_name}", endpoint(MANAGE_RLS, "delete"), methods=["DELETE"]),
]
