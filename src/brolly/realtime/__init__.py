"""Realtime: changes of rows over WebSocket, to those who may read them."""

from brolly.core.slice import Slice
from brolly.realtime.routes import routes
from brolly.realtime.tool import MANAGE_REALTIME

SLICE = Slice("realtime", tools=(MANAGE_REALTIME,), routes=routes)
