"""create_frontend_deployment and manage_frontend, and the larger table behind the HTTP routes."""

from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool
from brolly.hosting import domains, environment, service, source

CREATE_FRONTEND_DEPLOYMENT = Tool(
    "create_frontend_deployment",
    "New deployment",
    "Reserve; PUT a zip of the build folder's content to uploadUrl.",
    {
        "": Action(
            service.create_deployment,
            service.CreateDeployment,
            idempotent=False,
            event="deployment.create",
            verb="create",
            target=lambda _, made: made and made["deployment_id"],
        )
    },
    resource="deployment",
)

MANAGE_FRONTEND = Tool(
    "manage_frontend",
    "Sites",
    "Sites.",
    {
        "start_deployment": Action(
            service.start_deployment,
            service.DeploymentRef,
            idempotent=False,
            event="deployment.start",
            target="deployment_id",
            untrusted=True,
        ),
        "list_deployments": Action(service.list_deployments, AppParams, effect=READ, untrusted=True),
        "rollback": Action(
            service.rollback,
            service.Rollback,
            idempotent=False,
            event="deployment.rollback",
            target=lambda _, made: made and made["deployment_id"],
        ),
        "promote": Action(service.promote, service.DeploymentRef, event="deployment.promote", target="deployment_id"),
        "create_from_source": Action(
            source.create_from_source,
            source.CreateFromSource,
            idempotent=False,
            event="deployment.create_from_source",
            target=lambda _, made: made and made["deployment_id"],
        ),
        "start_from_source": Action(
            source.start_from_source,
            source.StartFromSource,
            idempotent=False,
            event="deployment.start_from_source",
            target="deployment_id",
            untrusted=True,
        ),
        "configure_custom_domain": Action(
            domains.configure,
            domains.Domain,
            event=lambda params, _: f"custom_domain.{params.domain_action if params else 'configure'}",
            target="domain_id",
        ),
        "set_env": Action(environment.set_env, environment.SetEnv, event="deployment.env.update"),
    },
    resource="deployment",
)

FRONTEND_OVER_HTTP = Tool(
    "frontend",
    "Front ends",
    "What programs do besides.",
    {
        "get": Action(service.get_deployment, service.DeploymentRef, effect=READ, target="deployment_id"),
        "get_env": Action(environment.get_env, AppParams, effect=READ, event="deployment.env.read"),
        "cancel": Action(
            service.cancel_deployment, service.DeploymentRef, event="deployment.cancel", target="deployment_id"
        ),
        "delete": Action(
            service.delete_deployment,
            service.DeploymentRef,
            effect=DESTROY,
            event="deployment.delete",
            target="deployment_id",
        ),
    },
    resource="deployment",
)
"""Not an MCP tool: for the routes alone."""

BUILD_LOG = Tool(
    "build_log",
    "Build log",
    "What a build prints.",
    {"": Action(source.open_log, source.ReadBuild, effect=READ)},
    resource="deployment",
)
"""Not an MCP tool: for the live log alone, which goes on after the action has said yes."""
