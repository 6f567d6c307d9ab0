"""manage_api_keys, and the part of manage_auth_config that makes keys."""

from brolly.core.tool import DESTROY, READ, Action, Tool
from brolly.keys import service

MANAGE_AUTH_CONFIG = Tool(
    "manage_auth_config",
    "Configure authentication",
    "Service keys; the key is shown once.",
    {
        "generate_service_key": Action(
            service.generate_key,
            service.GenerateKey,
            "scope read: read-only",
            idempotent=False,
            event="api_key.create",
            verb="create",
        ),
    },
    resource="api_key",
)

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
