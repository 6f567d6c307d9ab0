-- The app's end users: who they are, how they sign in, what was sent to them. In the app's own database, so
-- that they move with it. No caller's role reaches this schema; brolly_auth is taken on by the auth slice alone.

create schema auth;
revoke all on schema auth from public;
grant usage on schema auth to brolly_auth;

create table auth.users (
    id               uuid primary key default gen_random_uuid(),
    -- In the one form in which addresses are compared (Unicode NFKC, lower case); mail goes to this form too.
    email            text not null unique,
    email_verified   boolean not null default false,
    display_name     text,
    avatar_url       text,
    metadata         jsonb not null default '{}',
    password_hash    text,
    provider         text not null default 'email',
    provider_uid     text,
    -- Encrypted; set but not enabled while enrolment waits for its first code.
    mfa_secret       bytea,
    mfa_enabled_at   timestamptz,
    mfa_last_step    bigint,
    disabled_at      timestamptz,
    last_sign_in_at  timestamptz,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now()
);
create index users_newest on auth.users (created_at desc, id desc);

-- One sign-in on one device. Its refresh tokens follow one another; all of them end with it.
create table auth.sessions (
    id          uuid primary key default gen_random_uuid(),
    user_id     uuid not null references auth.users (id) on delete cascade,
    ip          text,
    user_agent  text,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null
);
create index sessions_user on auth.sessions (user_id);
create index sessions_expiry on auth.sessions (expires_at);

-- Used ones are kept until they expire, so that a second use is seen.
create table auth.refresh_tokens (
    token_hash  bytea primary key,
    session_id  uuid not null references auth.sessions (id) on delete cascade,
    expires_at  timestamptz not null,
    used_at     timestamptz
);
create index refresh_tokens_session on auth.refresh_tokens (session_id);

-- What was sent by mail, or stands between password and second factor; one of each kind per user.
create table auth.codes (
    user_id     uuid not null references auth.users (id) on delete cascade,
    kind        text not null check (kind in ('verify_email', 'reset_password', 'magic_link', 'mfa')),
    code_hash   bytea not null,
    token_hash  bytea not null unique,
    tries       integer not null default 0,
    expires_at  timestamptz not null,
    used_at     timestamptz,
    primary key (user_id, kind)
);

create table auth.recovery_codes (
    user_id    uuid not null references auth.users (id) on delete cascade,
    code_hash  bytea not null,
    primary key (user_id, code_hash)
);

-- Attempts per address and per account, and failures in a row. Keys are hashes, also of accounts that do not exist.
create table auth.limits (
    key    bytea primary key,
    hits   integer not null,
    until  timestamptz not null
);
create index limits_until on auth.limits (until);

-- Messages to users. The text of one that was delivered is not kept.
create table auth.outbox (
    id          bigint generated always as identity primary key,
    kind        text not null,
    recipient   text not null,
    subject     text not null,
    body        text,
    created_at  timestamptz not null default now(),
    sent_at     timestamptz,
    error       text
);
create index outbox_age on auth.outbox (created_at);

-- The keys that access tokens are signed with; the private half encrypted. signs_from lets verifiers
-- learn of a key before the first token that it signs.
create table auth.signing_keys (
    kid          text primary key,
    public_key   jsonb not null,
    private_key  bytea not null,
    signs_from   timestamptz not null,
    created_at   timestamptz not null default now()
);

grant select, insert, update, delete on all tables in schema auth to brolly_auth;
