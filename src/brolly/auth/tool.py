"""manage_auth_config and manage_auth_users."""

from brolly.auth import config, users
from brolly.core.tool import DESTROY, READ, Action, Tool

MANAGE_AUTH_CONFIG = Tool(
    "manage_auth_config",
    "Sign-in",
    "Sign-in of an app; service keys.",
    {
        "generate_service_key": Action(
            config.generate_key,
            config.GenerateKey,
            idempotent=False,
            event="api_key.create",
            verb="create",
            target=lambda _, made: made and made["key_id"],
            platform=True,
        ),
        "update_jwt": Action(config.update_jwt, config.UpdateJwt, event="app.config.jwt"),
        "configure_auth_hook": Action(config.configure_auth_hook, config.AuthHook, event="app.config.auth_hook"),
    },
    resource="api_key",
)

MANAGE_AUTH_USERS = Tool(
    "manage_auth_users",
    "Users",
    "End users.",
    {
        "list": Action(users.list_users, users.ListUsers, effect=READ),
        "get": Action(users.get_user, users.UserRef, effect=READ, target="user_id"),
        "update": Action(users.update_user, users.UpdateUser, target="user_id"),
        "import": Action(users.import_users, users.ImportUsers, verb="create"),
        "outbox": Action(users.list_outbox, users.Outbox, effect=READ),
        "delete": Action(
            users.delete_user, users.UserRef, effect=DESTROY, loses=users.what_delete_loses, target="user_id"
        ),
    },
    resource="auth_user",
    category="auth",
)
