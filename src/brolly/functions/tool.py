"""deploy_function, invoke_function and manage_function."""

from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool
from brolly.functions import environment, invoke, logs, service, tail

DEPLOY_FUNCTION = Tool(
    "deploy_function",
    "Deploy",
    "Create or replace TypeScript: export async function handler(request, ctx) returns Response.",
    {"": Action(service.deploy, service.Deploy, event="function.deploy", verb="create", target="name")},
    resource="function",
)

INVOKE_FUNCTION = Tool(
    "invoke_function",
    "Call",
    "Call a function with the owner's key.",
    {"": Action(invoke.invoke_function, invoke.InvokeFunction, idempotent=False, target="function_name")},
    resource="function",
)

MANAGE_FUNCTION = Tool(
    "manage_function",
    "Functions",
    "Functions.",
    {
        "list": Action(service.list_functions, AppParams, effect=READ, untrusted=True),
        "get": Action(service.get_function, service.FunctionRef, effect=READ, target="function_name", untrusted=True),
        "get_logs": Action(logs.get_logs, logs.GetLogs, effect=READ, target="function_name"),
        "update_env": Action(environment.update_env, environment.UpdateEnv, target="function_name"),
        "delete": Action(
            service.delete_function,
            service.FunctionRef,
            effect=DESTROY,
            loses=service.what_delete_loses,
            target="function_name",
        ),
    },
    resource="function",
)

FUNCTION_SETTINGS = Tool(
    "function_settings",
    "Function settings",
    "What is kept beside a function's code.",
    {"update": Action(service.update_settings, service.UpdateSettings, target="function_name")},
    resource="function",
)
"""For the HTTP route alone: deploy_function sets the same."""

LIVE_LOG = Tool(
    "live_log",
    "Live log",
    "A function's log while it grows.",
    {"": Action(tail.open_tail, tail.Follow, effect=READ, target="function_name")},
    resource="function",
)
"""For the HTTP route alone, which streams what it opens."""

APP_ENV = Tool(
    "app_env",
    "Variables",
    "Variables that all functions of an app see.",
    {
        "get": Action(environment.get_app_env, environment.AppEnv, effect=READ),
        "update": Action(environment.update_app_env, environment.UpdateAppEnv),
    },
    resource="app_env",
)
"""For the HTTP routes alone: models set a function's own variables."""
