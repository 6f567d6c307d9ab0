"""End users: signing up, in and out, and the tokens that prove it."""

from brolly.auth.routes import routes
from brolly.core.slice import Slice

SLICE = Slice("auth", routes=routes)
