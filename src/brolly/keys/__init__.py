"""Service keys: make, list and revoke them."""

from brolly.core.slice import Slice
from brolly.keys.routes import routes
from brolly.keys.tool import MANAGE_API_KEYS, MANAGE_AUTH_CONFIG

SLICE = Slice("keys", tools=(MANAGE_AUTH_CONFIG, MANAGE_API_KEYS), routes=routes)
