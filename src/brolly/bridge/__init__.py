"""``brolly mcp``: MCP over stdin and stdout, carried to a server's ``/mcp`` message by message."""

from brolly.bridge.carrier import run_bridge

__all__ = ["run_bridge"]
