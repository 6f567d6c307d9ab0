-- What agents and people report or wish for.

create table brolly.suggestions (
    id                 uuid primary key default gen_random_uuid(),
    account_id         uuid not null references brolly.accounts (id),
    app_id             text,
    category           text not null,
    description        text not null,
    severity           text,
    affected_tool      text,
    proposed_solution  text,
    source             text not null,
    agent_context      jsonb,
    recent_calls       jsonb not null,
    status             text not null default 'new',
    created_at         timestamptz not null default now()
);
