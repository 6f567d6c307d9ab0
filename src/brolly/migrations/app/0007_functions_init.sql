-- The app's functions, their settings and what they did. In the app's own database, so that they move with it.
-- No caller's role reaches this schema; brolly_functions is taken on by the functions slice alone.

create schema functions;
revoke all on schema functions from public;
grant usage on schema functions to brolly_functions;

create table functions.functions (
    id               uuid primary key default gen_random_uuid(),
    name             text not null,
    description      text,
    code             text not null,
    timeout_ms       integer not null,
    memory_limit_mb  integer not null,
    -- Encrypted: a JSON object of names and values.
    env              bytea,
    options          jsonb not null default '{}',
    created_at       timestamptz not null default now(),
    deployed_at      timestamptz not null default now(),
    -- A deleted function's logs are kept for their time.
    deleted_at       timestamptz
);
create unique index functions_name on functions.functions (name) where deleted_at is null;

create table functions.triggers (
    function_id  uuid not null references functions.functions (id) on delete cascade,
    type         text not null check (type in ('http', 'cron', 'webhook', 'websocket', 's3_upload')),
    config       jsonb not null default '{}',
    -- Encrypted: what a webhook is signed with.
    secret       bytea,
    enabled      boolean not null default true,
    primary key (function_id, type)
);

-- What all functions of the app see beside their own.
create table functions.environment (
    single      boolean primary key default true check (single),
    env         bytea not null,
    updated_at  timestamptz not null default now()
);

create table functions.invocations (
    id           bigint generated always as identity primary key,
    token        uuid not null unique,
    function_id  uuid not null references functions.functions (id) on delete cascade,
    started_at   timestamptz not null,
    trigger      text not null,
    caller       text not null,
    method       text not null,
    path         text not null,
    status       integer not null,
    duration_ms  real not null,
    error        text,
    stack        text,
    lines        jsonb not null default '[]'
);
create index invocations_function on functions.invocations (function_id, id desc);
create index invocations_time on functions.invocations (started_at);

-- Keys that ctx.idempotency.claim and webhooks have seen.
create table functions.claims (
    scope       text not null,
    key         text not null,
    expires_at  timestamptz not null,
    primary key (scope, key)
);
create index claims_expiry on functions.claims (expires_at);

grant select, insert, update, delete on all tables in schema functions to brolly_functions;
