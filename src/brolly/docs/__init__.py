"""Docs: our own documentation, for agents as text and for people as pages. Never touches the network."""

from brolly.core.slice import Slice
from brolly.docs.routes import routes
from brolly.docs.tool import BUTTERBASE_DOCS

SLICE = Slice("docs", tools=(BUTTERBASE_DOCS,), routes=routes)
