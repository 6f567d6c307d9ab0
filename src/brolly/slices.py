"""The list of slices: what the product consists of, in the order in which tools are listed."""

from __future__ import annotations

from brolly.ai import SLICE as AI
from brolly.apps import SLICE as APPS
from brolly.audit import SLICE as AUDIT
from brolly.auth import SLICE as AUTH
from brolly.authorization import SLICE as AUTHORIZATION
from brolly.core.slice import Slice
from brolly.data import SLICE as DATA
from brolly.docs import SLICE as DOCS
from brolly.functions import SLICE as FUNCTIONS
from brolly.hosting import SLICE as HOSTING
from brolly.keys import SLICE as KEYS
from brolly.rag import SLICE as RAG
from brolly.realtime import SLICE as REALTIME
from brolly.regions import SLICE as REGIONS
from brolly.rls import SLICE as RLS
from brolly.schema import SLICE as SCHEMA
from brolly.storage import SLICE as STORAGE
from brolly.suggestions import SLICE as SUGGESTIONS

SLICES: tuple[Slice, ...] = (
    APPS, SCHEMA, RLS, AUTH, DATA, STORAGE, FUNCTIONS, HOSTING, REALTIME, AI, RAG, KEYS, AUTHORIZATION, AUDIT, REGIONS,
    DOCS, SUGGESTIONS,
)  # fmt: skip
