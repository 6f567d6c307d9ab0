"""HTTP routes of service keys."""

from starlette.routing import Route

from brolly.core.errors import AppError
from brolly.endpoint import Arguments, endpoint
from brolly.keys.tool import GENERATE_KEY, MANAGE_API_KEYS

_SCOPES = ("app", "substrate", "both", "me")


def _list(arguments: Arguments) -> tuple[str, Arguments]:
    # Clients ask for their own keys by ?scope=; every kind of key is in the one list here.
    if (scope := arguments.get("scope", "me")) not in _SCOPES:
        raise AppError(
            "VALIDATION_INVALID_SCOPE",
            f"There are no keys of scope {scope[:100]!r}.",
            remediation=f"Leave scope out, as manage_api_keys list does, or send one of: {', '.join(_SCOPES)}.",
        )
    return "list", {k: v for k, v in arguments.items() if k != "scope"}


routes = [
    Route(
        "/api-keys",
        endpoint(GENERATE_KEY, "generate_service_key", status=201, rename={"target_app_id": "app_id"}),
        methods=["POST"],
    ),
    Route("/api-keys", endpoint(MANAGE_API_KEYS, prepare=_list), methods=["GET"]),
    Route("/api-keys/{key_id}", endpoint(MANAGE_API_KEYS, "revoke"), methods=["DELETE"]),
]
