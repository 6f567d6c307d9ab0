-- Builds from source: what was asked for, who is at it, and what it printed. The outcome is the deployment's.

create table brolly.builds (
    id             uuid primary key default gen_random_uuid(),
    deployment_id  uuid not null unique references brolly.deployments (id) on delete cascade,
    app_id         text not null references brolly.apps (id) on delete cascade,
    state          text not null default 'WAITING' check (state in ('WAITING', 'QUEUED', 'RUNNING', 'DONE')),
    options        jsonb not null default '{}',
    -- The variables that this build alone sees, sealed; gone when it is over.
    environment    bytea,
    attempts       integer not null default 0,
    -- Whether dependencies kept from an earlier build were used.
    cached         boolean,
    created_at     timestamptz not null default now(),
    queued_at      timestamptz,
    started_at     timestamptz,
    ended_at       timestamptz
);
create index builds_app on brolly.builds (app_id);
create index builds_work on brolly.builds (queued_at) where state in ('QUEUED', 'RUNNING');

create table brolly.build_lines (
    build_id  uuid not null references brolly.builds (id) on delete cascade,
    number    integer not null,
    text      text not null,
    primary key (build_id, number)
);
