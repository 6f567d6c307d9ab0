"""Serverless functions: TypeScript that runs with the rights of whoever calls it."""

from brolly.core.slice import Slice
from brolly.functions.events import keep_auth_hook, object_uploaded, run_event
from brolly.functions.openapi import describe_functions
from brolly.functions.routes import routes
from brolly.functions.store import has_function
from brolly.functions.tool import DEPLOY_FUNCTION, INVOKE_FUNCTION, MANAGE_FUNCTION
from brolly.functions.worker import end_functions, workers

SLICE = Slice(
    "functions",
    tools=(DEPLOY_FUNCTION, INVOKE_FUNCTION, MANAGE_FUNCTION),
    routes=routes,
    workers=workers,
    openapi=describe_functions,
    app_deleted=end_functions,
    provides={
        "has_function": has_function,
        "keep_auth_hook": keep_auth_hook,
        "object_uploaded": object_uploaded,
        "run_event": run_event,
    },
)
