"""Realtime: changes of rows over WebSocket, to those who may read them."""

from brolly.core.slice import Slice
from brolly.realtime.hub import serving
from brolly.realtime.routes import routes
from brolly.realtime.service import structure_changed
from brolly.realtime.tool import MANAGE_REALTIME
from brolly.realtime.worker import workers

SLICE = Slice(
    "realtime",
    tools=(MANAGE_REALTIME,),
    routes=routes,
    workers=workers,
    serving=serving,
    provides={"structure_changed": structure_changed},
)
