"""Everything that speaks to Postgres; the only home of asyncpg."""
