"""query_audit_logs."""

from brolly.audit import service
from brolly.core.tool import READ, Action, Tool

QUERY_AUDIT_LOGS = Tool(
    "query_audit_logs",
    "Audit log",
    "What was done. app_id _platform: keys.",
    {"": Action(service.query_logs, service.QueryLogs, effect=READ, event=service.QUERY_EVENT)},
    resource="audit_log",
)
