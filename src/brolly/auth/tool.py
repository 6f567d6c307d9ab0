"""manage_auth_config, manage_auth_users and manage_oauth."""

from brolly.auth import config, oauth_config, users
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
        "update": Action(users.update_user, users.UpdateUser, target="user_id", untrusted=True),
        "import": Action(users.import_users, users.ImportUsers, verb="create"),
        "outbox": Action(users.list_outbox, users.Outbox, effect=READ, untrusted=True),
        "delete": Action(
            users.delete_user, users.UserRef, effect=DESTROY, loses=users.what_delete_loses, target="user_id"
        ),
    },
    resource="auth_user",
    category="auth",
)

MANAGE_OAUTH = Tool(
    "manage_oauth",
    "OAuth",
    "Social login.",
    {
        "configure": Action(
            oauth_config.configure,
            oauth_config.Configure,
            "apple, custom: docs",
            event="oauth.provider.create",
            verb="create",
            target="provider",
        ),
        "get": Action(oauth_config.get, oauth_config.Get, effect=READ, event="oauth.provider.read", target="provider"),
        "update": Action(
            oauth_config.update, oauth_config.Update, "+ changes", event="oauth.provider.update", target="provider"
        ),
        "delete": Action(
            oauth_config.delete,
            oauth_config.Ref,
            effect=DESTROY,
            loses=oauth_config.what_delete_loses,
            event="oauth.provider.delete",
            target="provider",
        ),
    },
    resource="oauth_provider",
)
