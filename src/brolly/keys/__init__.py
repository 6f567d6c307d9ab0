"""Service keys: make, list and revoke them."""

from brolly.core.slice import Slice
from brolly.keys.routes import routes
from brolly.keys.service import ended_keys, mint_key
from brolly.keys.tool import MANAGE_API_KEYS

SLICE = Slice(
    "keys", tools=(MANAGE_API_KEYS,), routes=routes, provides={"mint_key": mint_key, "ended_keys": ended_keys}
)
