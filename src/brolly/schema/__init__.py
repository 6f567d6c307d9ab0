"""Schema: an app's tables, declared in a document."""

from brolly.core.slice import Slice
from brolly.schema.routes import routes
from brolly.schema.tool import MANAGE_SCHEMA

SLICE = Slice("schema", tools=(MANAGE_SCHEMA,), routes=routes)
