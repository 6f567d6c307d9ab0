"""manage_schema."""

from brolly.core.tool import DESTROY, READ, Action, Tool
from brolly.schema import service

MANAGE_SCHEMA = Tool(
    "manage_schema",
    "Manage schema",
    "Tables of an app, declaratively; what is left out is kept.",
    {
        "get": Action(service.get_schema, service.GetSchema, effect=READ, untrusted=True),
        "dry_run": Action(service.dry_run, service.Preview, effect=READ, untrusted=True),
        "apply": Action(
            service.apply_schema,
            service.Apply,
            effect=DESTROY,
            loses=service.what_apply_loses,
            event="schema.apply",
            verb="update",
            target="name",
            untrusted=True,
        ),
        "list_migrations": Action(service.list_migrations, service.ListMigrations, effect=READ, untrusted=True),
    },
    resource="schema",
)
