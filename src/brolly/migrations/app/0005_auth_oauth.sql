-- Sign-in through other providers. A person is (provider, provider_uid); addresses only join accounts.

create table auth.oauth_providers (
    id                 uuid primary key default gen_random_uuid(),
    provider           text not null unique,
    client_id          text not null,
    -- The client secret and Apple's private key, encrypted.
    secrets            bytea not null,
    redirect_uris      text[] not null,
    scopes             text[] not null,
    -- Null where the built-in or discovered address holds.
    authorization_url  text,
    token_url          text,
    userinfo_url       text,
    provider_metadata  jsonb not null default '{}',
    enabled            boolean not null default true,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now()
);

create table auth.identities (
    provider         text not null,
    provider_uid     text not null,
    user_id          uuid not null references auth.users (id) on delete cascade,
    -- As the provider told it last; says nothing about the account's own address.
    email            text,
    created_at       timestamptz not null default now(),
    last_sign_in_at  timestamptz not null default now(),
    primary key (provider, provider_uid),
    -- One person of a provider per account: a second one is somebody who was given the address later.
    unique (user_id, provider)
);

-- Sign-ins under way, so that any replica can finish them. Hashes of what the browser and the provider hold.
create table auth.oauth_states (
    state_hash    bytea primary key,
    provider      text not null,
    browser_hash  bytea not null,
    -- The PKCE verifier and the nonce, encrypted.
    sealed        bytea not null,
    redirect_uri  text not null,
    redirect_to   text,
    expires_at    timestamptz not null
);
create index oauth_states_expiry on auth.oauth_states (expires_at);

grant select, insert, update, delete on auth.oauth_providers, auth.identities, auth.oauth_states to brolly_auth;
