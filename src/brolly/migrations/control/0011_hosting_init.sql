-- Front ends: what was deployed, which of it is live, and the domains that lead to it.

create sequence brolly.deployment_turns;

create table brolly.deployments (
    id                 uuid primary key default gen_random_uuid(),
    app_id             text not null references brolly.apps (id) on delete cascade,
    -- Names it in preview addresses; not to be guessed.
    slug               text not null unique,
    kind               text not null check (kind in ('files', 'source')),
    framework          text,
    status             text not null default 'WAITING'
                       check (status in ('WAITING', 'UPLOADING', 'BUILDING', 'READY', 'ERROR', 'CANCELED')),
    error              text,
    upload_key         text,
    upload_bytes       bigint,
    upload_expires_at  timestamptz not null,
    -- Of two that are started at once the later one stays live, whichever is finished first.
    turn               bigint,
    -- Until then the process that works on it lives; later another one takes it up.
    lease_until        timestamptz,
    attempts           integer not null default 0,
    root               text not null default '',
    rules              jsonb not null default '{}',
    warnings           text[] not null default '{}',
    file_count         integer,
    total_bytes        bigint,
    created_at         timestamptz not null default now(),
    started_at         timestamptz,
    completed_at       timestamptz,
    updated_at         timestamptz not null default now()
);
create index deployments_app on brolly.deployments (app_id, created_at desc);
create index deployments_work on brolly.deployments (lease_until) where status in ('UPLOADING', 'BUILDING');
create index deployments_waiting on brolly.deployments (upload_expires_at) where status = 'WAITING';

-- What is live. The turn only grows, so that what was started earlier never replaces what was started later.
create table brolly.sites (
    app_id         text primary key references brolly.apps (id) on delete cascade,
    deployment_id  uuid not null references brolly.deployments (id),
    former_id      uuid references brolly.deployments (id) on delete set null,
    turn           bigint not null,
    switched_at    timestamptz not null default now()
);
create index sites_deployment on brolly.sites (deployment_id);
create index sites_former on brolly.sites (former_id);

-- Contents, each once per app: the bytes, then the same compressed, one behind the other in one object of the store.
create table brolly.site_blobs (
    id          bigint generated always as identity primary key,
    app_id      text not null references brolly.apps (id) on delete cascade,
    sha256      bytea not null,
    -- The store's key. One that was given up is never used again, so that a late removal cannot hit a new one.
    key         text not null unique,
    size        bigint not null,
    br_size     bigint,
    gzip_size   bigint,
    zstd_size   bigint,
    stored_at   timestamptz,
    touched_at  timestamptz not null default now(),
    unique (app_id, sha256)
);
create index site_blobs_touched on brolly.site_blobs (touched_at);

create table brolly.deployment_files (
    deployment_id  uuid not null references brolly.deployments (id) on delete cascade,
    path           text not null,
    blob_id        bigint not null references brolly.site_blobs (id),
    content_type   text not null,
    primary key (deployment_id, path)
);
create index deployment_files_blob on brolly.deployment_files (blob_id);

-- Variables that builds see. Values are sealed.
create table brolly.site_env (
    app_id      text not null references brolly.apps (id) on delete cascade,
    name        text not null,
    value       bytea not null,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    primary key (app_id, name)
);

create table brolly.custom_domains (
    id           uuid primary key default gen_random_uuid(),
    app_id       text not null references brolly.apps (id) on delete cascade,
    hostname     text not null,
    method       text not null check (method in ('txt', 'http')),
    token        text not null,
    status       text not null default 'pending' check (status in ('pending', 'active')),
    error        text,
    checked_at   timestamptz,
    verified_at  timestamptz,
    created_at   timestamptz not null default now(),
    unique (app_id, hostname)
);
-- Anybody may ask for a name; only who proves to hold it gets it, and one app alone.
create unique index custom_domains_active on brolly.custom_domains (hostname) where status = 'active';
create index custom_domains_pending on brolly.custom_domains (hostname) where status = 'pending';
