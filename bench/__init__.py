"""Measurements of Brolly: what it costs to list its tools, start it, call it, keep it running, install it."""
