"""select_rows, insert_row and seed_database."""

from brolly.core.tool import READ, Action, Tool
from brolly.data import seed, service

SELECT_ROWS = Tool(
    "select_rows",
    "Read rows",
    'Rows as service or as_role. filters: {column: "op.value"} (array: all hold), op: '
    "eq neq gt gte lt lte like ilike is in fts, also not.op; in.(a,b).",
    {"": Action(service.select_rows, service.SelectRows, effect=READ, target="table")},
    resource="row",
)

INSERT_ROW = Tool(
    "insert_row",
    "Insert row",
    "Store one row as service, or as_role to test policies; answers the stored row.",
    {"": Action(service.insert_row, service.InsertRow, idempotent=False, verb="create", target="table")},
    resource="row",
)

SEED_DATABASE = Tool(
    "seed_database",
    "Insert many rows",
    "Store 1-100 rows as service, each by itself; failures are listed.",
    {
        "": Action(
            seed.seed_database, seed.SeedDatabase, idempotent=False, event="row.seed", verb="create", target="table"
        )
    },
    resource="row",
)
