"""``brolly demo``: a real MCP client over stdio builds a secured blog, people use it over HTTP; a file per scene."""

from brolly.demo.command import demo as demo
