"""manage_api_keys, and the table behind ``POST /api-keys``."""

from brolly.core.tool import DESTROY, READ, Action, Tool
from brolly.keys import service

GENERATE_KEY = Tool(
    "manage_auth_config",
    "Make a service key",
    "Make a service key; it is shown once.",
    {
        "generate_service_key": Action(
            service.generate_key,
            service.GenerateKey,
            idempotent=False,
            event="api_key.create",
            verb="create",
            target=lambda _, made: made and made["key_id"],
            platform=True,
        ),
    },
    resource="api_key",
)
"""The one action of manage_auth_config that HTTP has here; over MCP that tool reaches it as ``mint_key``."""

MANAGE_API_KEYS = Tool(
    "manage_api_keys",
    "Service keys",
    "Service keys of this account.",
    {
        "list": Action(service.list_keys, service.ListKeys, effect=READ, untrusted=True),
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
