-- Who is present at which server, and what servers tell each other that is too long for NOTIFY. Nothing of it outlives
-- the servers, so nothing of it is logged: after a crash of Postgres each server writes its own again.
create unlogged table brolly.realtime_servers (
    id text primary key,
    seen_at timestamptz not null default now()
);

create unlogged table brolly.realtime_presence (
    app_id text not null references brolly.apps (id) on delete cascade,
    channel text not null,
    client_id text not null,
    server_id text not null,
    user_id text,
    metadata text not null,
    primary key (app_id, channel, client_id)
);
create index on brolly.realtime_presence (server_id);

create unlogged table brolly.realtime_messages (
    id bigint generated always as identity primary key,
    body text not null,
    created_at timestamptz not null default now()
);
create index on brolly.realtime_messages (created_at);
