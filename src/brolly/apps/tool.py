"""init_app and manage_app."""

from brolly.apps import service
from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool

INIT_APP = Tool(
    "init_app",
    "Create app",
    "Create an app: Postgres database, API address, subdomain. An existing name returns that app.",
    {"": Action(service.init_app, service.InitApp, event="app.create", verb="create")},
    resource="app",
)

INIT_APP_OVER_HTTP = Tool(
    "init_app",
    "Create app",
    "Create an app, at a subdomain of one's choice.",
    {"": Action(service.init_app, service.InitAppAt, event="app.create", verb="create")},
    resource="app",
)
"""Not an MCP tool: the table behind ``POST /init``."""

MANAGE_APP = Tool(
    "manage_app",
    "Apps",
    "Apps: life cycle and settings.",
    {
        "list": Action(service.list_apps, service.ListApps, effect=READ),
        "get_config": Action(service.get_config, AppParams, effect=READ),
        "pause": Action(service.pause_app, service.Pause, event="app.config.paused"),
        "update_access_mode": Action(service.update_access_mode, service.AccessMode, event="app.config.access_mode"),
        "update_cors": Action(service.update_cors, service.Cors, "replaces the list", event="app.config.cors"),
        "secure": Action(
            service.secure_app,
            service.Secure,
            "refuses anon; tables: [{table_name, user_column, public_read_column?}]",
            event="app.secure",
        ),
        "delete": Action(
            service.delete_app, AppParams, effect=DESTROY, loses=service.what_delete_loses, event="app.delete"
        ),
    },
    resource="app",
)

APP_STATUS = Tool(
    "app_status",
    "App status",
    "Whether an app is ready.",
    {"": Action(service.get_status, AppParams, effect=READ, event="app.status")},
    resource="app",
)
"""Not an MCP tool: the table behind ``GET /apps/{id}/status``."""
