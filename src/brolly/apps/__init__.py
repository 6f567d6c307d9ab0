"""Apps: create, configure, pause and delete them."""

from brolly.apps.routes import last_routes, routes
from brolly.apps.tool import INIT_APP, MANAGE_APP
from brolly.apps.worker import workers
from brolly.core.slice import Slice

SLICE = Slice("apps", tools=(INIT_APP, MANAGE_APP), routes=routes, last_routes=last_routes, workers=workers)
