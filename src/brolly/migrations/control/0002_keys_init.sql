-- Service keys. Only the SHA-256 of a key is kept.

create table brolly.api_keys (
    id            uuid primary key default gen_random_uuid(),
    account_id    uuid not null references brolly.accounts (id),
    name          text not null,
    key_hash      bytea not null unique,
    key_prefix    text not null,
    scopes        text[] not null,
    created_at    timestamptz not null default now(),
    last_used_at  timestamptz,
    expires_at    timestamptz,
    revoked_at    timestamptz
);
create index api_keys_account on brolly.api_keys (account_id, created_at desc);
