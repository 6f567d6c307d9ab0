"""Searching a collection: what it adds to the slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brolly.core.tool import Tool

tools: Sequence[Tool] = ()
routes: Sequence[Any] = ()
