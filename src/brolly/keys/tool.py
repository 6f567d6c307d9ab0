"""manage_api_keys, and the table behind ``POST /api-keys``."""

from brolly.core.tool import DESTROY, READ, Action, Tool
from brolly.keys import service

GENERATE_KEY = Tool(
    "generate_service_key",
    "Make a service key",
    "Make a service key; it is shown once.",
    {
        "": Action(service.generate_key, service.GenerateKey, idempotent=False, event="api_key.create", verb="create"),
    },
    resource="api_key",
)
"""Not an MCP tool: there it is an action of manage_auth_config, which reaches it as the capability ``mint_key``."""

MANAGE_API_KEYS = Tool(
    "manage_api_keys",
    "Manage service keys",
    "Service keys of this account.",
    {
        "list": Action(service.list_keys, service.ListKeys, effect=READ),
        "revoke": Action(
            service.revoke_key,
            service.RevokeKey,
            effect=DESTROY,
            loses=service.what_revoke_loses,
            event="api_key.revoke",
            target="key_id",
        ),
    },
    resource="api_key",
)
