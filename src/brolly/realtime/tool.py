"""manage_realtime."""

from brolly.core.tool import READ, AppParams, Tool
from brolly.core.tool import Action as Action
from brolly.realtime import service

MANAGE_REALTIME = Tool(
    "manage_realtime",
    "Realtime",
    "Changes over WebSocket.",
    {"get": Action(service.get, AppParams, effect=READ)},
    resource="realtime",
)
