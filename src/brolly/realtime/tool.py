"""manage_realtime."""

from brolly.core.tool import READ, Action, AppParams, Tool
from brolly.realtime import service

MANAGE_REALTIME = Tool(
    "manage_realtime",
    "Realtime",
    "Changes of rows over WebSocket.",
    {
        "configure": Action(service.configure, service.Tables, target="tables"),
        "disable": Action(service.disable, service.Tables, target="tables"),
        "get": Action(service.get, AppParams, effect=READ),
    },
    resource="realtime",
)
