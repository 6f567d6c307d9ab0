"""Row-level security: which rows each caller may reach."""

from brolly.core.slice import Slice
from brolly.rls.routes import routes
from brolly.rls.service import isolate
from brolly.rls.tool import MANAGE_RLS

SLICE = Slice("rls", tools=(MANAGE_RLS,), routes=routes, provides={"isolate": isolate})
