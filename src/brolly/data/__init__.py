"""Rows of an app's tables: read and store them under the caller's role."""

from brolly.core.slice import Slice
from brolly.data import openapi_routes, rpc_routes
from brolly.data.matching import match_rows, row_filter
from brolly.data.openapi_tables import describe_rows
from brolly.data.routes import last_routes, routes
from brolly.data.tool import INSERT_ROW, SEED_DATABASE, SELECT_ROWS

SLICE = Slice(
    "data",
    tools=(SELECT_ROWS, INSERT_ROW, SEED_DATABASE),
    routes=[*routes, *rpc_routes.routes, *openapi_routes.routes],
    last_routes=last_routes,
    openapi=describe_rows,
    provides={"row_filter": row_filter, "match_rows": match_rows},
)
