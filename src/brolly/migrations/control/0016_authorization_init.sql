-- Sign-in of the owner, and programs that the owner let in through OAuth. Every secret is kept as a hash.

-- What a program was allowed is a key that nobody holds: its tokens stand for it, and it is revoked as keys are.
alter table brolly.api_keys add column client_id text;

create table brolly.owner_logins (
    account_id       uuid primary key references brolly.accounts (id) on delete cascade,
    password_hash    text not null,
    password_set_at  timestamptz not null default now(),
    totp_secret      bytea,
    totp_last_step   bigint
);

create table brolly.owner_sessions (
    token_hash  bytea primary key,
    account_id  uuid not null references brolly.owner_logins (account_id) on delete cascade,
    expires_at  timestamptz not null
);
create index owner_sessions_end on brolly.owner_sessions (expires_at);

-- Attempts within a window, by a keyed hash of who tries.
create table brolly.authorization_limits (
    subject  bytea primary key,
    hits     integer not null,
    until    timestamptz not null
);
create index authorization_limits_end on brolly.authorization_limits (until);

-- Programs that registered, and documents of those that have an address; both for a time.
create table brolly.oauth_clients (
    client_id      text primary key,
    name           text not null,
    redirect_uris  text[] not null,
    used           boolean not null default false,
    created_at     timestamptz not null default now(),
    expires_at     timestamptz not null
);
create index oauth_clients_end on brolly.oauth_clients (expires_at);

create table brolly.oauth_codes (
    code_hash       bytea primary key,
    account_id      uuid not null references brolly.accounts (id) on delete cascade,
    client_id       text not null,
    client_name     text not null,
    redirect_uri    text not null,
    code_challenge  text not null,
    resource        text not null,
    scope           text not null,
    key_scopes      text[] not null,
    expires_at      timestamptz not null,
    used_at         timestamptz,
    key_id          uuid references brolly.api_keys (id) on delete cascade
);
create index oauth_codes_end on brolly.oauth_codes (expires_at);

create table brolly.oauth_tokens (
    token_hash  bytea primary key,
    kind        text not null check (kind in ('access', 'refresh')),
    key_id      uuid not null references brolly.api_keys (id) on delete cascade,
    resource    text not null,
    scope       text not null,
    key_scopes  text[] not null,
    expires_at  timestamptz not null,
    used_at     timestamptz
);
create index oauth_tokens_key on brolly.oauth_tokens (key_id);
create index oauth_tokens_end on brolly.oauth_tokens (expires_at);
