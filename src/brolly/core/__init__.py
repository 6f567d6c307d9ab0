"""The kernel that knows neither Postgres nor HTTP nor MCP."""
