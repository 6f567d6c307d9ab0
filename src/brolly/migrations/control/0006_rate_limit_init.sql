-- How much of each subject's window the replicas have taken together. Unlogged: a count of one minute need not
-- survive a crash, and writing it then waits for no disk.

create unlogged table brolly.rate_windows (
    subject  bytea not null,
    number   bigint not null,
    taken    bigint not null,
    granted  bigint not null,
    ends_at  timestamptz not null,
    primary key (subject, number)
) with (fillfactor = 70);
create index rate_windows_end on brolly.rate_windows (ends_at);
