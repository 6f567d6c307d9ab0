"""HTTP routes of the audit log."""

from starlette.routing import Route

from brolly.audit.tool import QUERY_AUDIT_LOGS
from brolly.endpoint import endpoint

routes = [Route("/v1/{app_id}/audit-logs", endpoint(QUERY_AUDIT_LOGS), methods=["GET"])]
