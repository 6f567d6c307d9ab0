"""OAuth for /mcp: the owner signs in and lets programs in, which get tokens (RFC 6749, OAuth 2.1)."""

from brolly.authorization.routes import routes
from brolly.core.slice import Slice

SLICE = Slice("authorization", routes=routes)
