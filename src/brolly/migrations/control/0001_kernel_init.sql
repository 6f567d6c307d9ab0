-- The control database: who owns what, and which apps exist.

revoke all on schema brolly from public;

-- One row: ties the database to the installation secret, from which login passwords are derived.
create table brolly.installation (
    only_row      boolean primary key default true check (only_row),
    secret_check  text not null,
    created_at    timestamptz not null default now()
);

create table brolly.accounts (
    id          uuid primary key default gen_random_uuid(),
    name        text not null unique,
    created_at  timestamptz not null default now()
);

create table brolly.apps (
    id                  text primary key,
    account_id          uuid not null references brolly.accounts (id),
    name                text not null,
    subdomain           text not null unique,
    db_name             text not null unique,
    region              text not null,
    status              text not null check (status in ('provisioning', 'ready', 'deleting')),
    app_version         integer not null default 0,
    access_mode         text not null default 'public' check (access_mode in ('public', 'authenticated')),
    allowed_origins     text[] not null default '{http://localhost:3000}',
    storage_config      jsonb not null
                        default '{"maxFileSizeMb": 10, "publicReadEnabled": false, "allowedContentTypes": ["*/*"]}',
    jwt_config          jsonb not null default '{"accessTokenTtl": "15m", "refreshTokenTtlDays": 7}',
    auth_hook_function  text,
    visibility          text not null default 'private' check (visibility in ('private', 'public')),
    listed              boolean not null default false,
    paused_at           timestamptz,
    paused_reason       text,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    unique (account_id, name)
);
