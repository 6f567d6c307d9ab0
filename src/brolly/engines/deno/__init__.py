"""Deno, which runs apps' functions: one process per app, started on demand, one isolate per function."""

from brolly.engines.deno.check import Diagnostic
from brolly.engines.deno.engine import Answer, Engine, Limits
from brolly.engines.deno.host import HostCalls
from brolly.engines.deno.process import Bounds
from brolly.engines.deno.program import Invocation, Program

__all__ = ["Answer", "Bounds", "Diagnostic", "Engine", "HostCalls", "Invocation", "Limits", "Program"]
