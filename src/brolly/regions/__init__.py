"""Regions: where apps of this server can live."""

from brolly.core.slice import Slice
from brolly.regions.routes import routes
from brolly.regions.tool import LIST_REGIONS

SLICE = Slice("regions", tools=(LIST_REGIONS,), routes=routes)
