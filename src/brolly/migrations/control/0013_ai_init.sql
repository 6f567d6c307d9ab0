-- The model gateway: each app's rules and sealed key, what its calls used and cost, and room taken of a spending cap.

alter table brolly.apps
    add column ai_config jsonb not null default '{}',
    add column ai_key bytea;

-- One row for each day, model and user, added to as calls end. Without an app: calls of the account's own keys.
create table brolly.ai_usage (
    account_id         uuid not null references brolly.accounts (id) on delete cascade,
    app_id             text references brolly.apps (id) on delete cascade,
    day                date not null,
    model              text not null,
    user_id            text not null default '',
    requests           bigint not null default 0,
    prompt_tokens      bigint not null default 0,
    completion_tokens  bigint not null default 0,
    cost_usd           numeric not null default 0,
    -- Calls whose provider did not tell what they used, so that it was counted here.
    estimated          bigint not null default 0,
    unpriced           bigint not null default 0,
    unique nulls not distinct (account_id, app_id, day, model, user_id)
);
create index ai_usage_app on brolly.ai_usage (app_id, day);

-- What an app has spent in a month: the row that calls under a cap are decided on, one after another.
create table brolly.ai_spending (
    app_id  text not null references brolly.apps (id) on delete cascade,
    month   date not null,
    spent   numeric not null default 0,
    primary key (app_id, month)
);

-- What calls under way may still cost. One that never came back gives its room back when its time is over.
create table brolly.ai_reservations (
    id       uuid primary key default gen_random_uuid(),
    app_id   text not null references brolly.apps (id) on delete cascade,
    amount   numeric not null,
    ends_at  timestamptz not null
);
create index ai_reservations_app on brolly.ai_reservations (app_id);

-- Requests and answers, of apps whose owner asked for it, for as long as they asked.
create table brolly.ai_bodies (
    id        bigint generated always as identity primary key,
    app_id    text not null references brolly.apps (id) on delete cascade,
    at        timestamptz not null default now(),
    model     text not null,
    user_id   text not null default '',
    request   text not null,
    answer    text not null,
    ends_at   timestamptz not null
);
create index ai_bodies_app on brolly.ai_bodies (app_id, id desc);
create index ai_bodies_end on brolly.ai_bodies (ends_at);
