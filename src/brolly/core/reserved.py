"""Words that the platform keeps for itself."""

ROUTE_WORDS = frozenset((
    "admin", "agents", "ai", "audit-logs", "auth", "batch", "billing", "chat", "config", "custom-domains",
    "durable-objects", "edge-ssr", "embeddings", "env", "fn", "frontend", "functions", "images", "integrations", "kv",
    "mcp-servers", "migrations", "openapi.json", "partners", "people", "rag", "realtime", "repo", "rls", "rpc",
    "schema", "secure", "types.ts", "videos", "webhook",
))  # fmt: skip
"""The data API serves a table at ``/v1/{app}/{table}``; a platform route owns these in the table's place."""
