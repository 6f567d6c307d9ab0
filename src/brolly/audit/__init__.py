"""Audit: what was done, by whom, with what outcome."""

from brolly.audit.routes import routes
from brolly.audit.service import record
from brolly.audit.tool import QUERY_AUDIT_LOGS
from brolly.audit.worker import workers
from brolly.core.slice import Slice

SLICE = Slice("audit", tools=(QUERY_AUDIT_LOGS,), routes=routes, workers=workers, provides={"record": record})
