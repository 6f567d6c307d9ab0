"""butterbase_docs."""

from brolly.core.tool import READ, Action, Tool
from brolly.docs import service

BUTTERBASE_DOCS = Tool(
    "butterbase_docs",
    "Read documentation",
    "This server's documentation. query: words, or a tool's name.",
    {"": Action(service.read_docs, service.ReadDocs, effect=READ, event="docs.read")},
    resource="docs",
    open_world=False,
)
