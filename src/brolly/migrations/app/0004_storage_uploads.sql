-- Files that arrive in pieces (the tus protocol): how far each has come, so that any process can go on with it.

create table storage.uploads (
    object_id  uuid primary key references storage.objects (id) on delete cascade,
    -- The store's name for it.
    upload_id  text not null,
    -- The parts that the store has, as [etag, size]; their sum and the tail are what has arrived.
    parts      jsonb not null default '[]',
    received   bigint not null default 0 check (received >= 0),
    -- Bytes at the end that are too few for a part; they lie in the store beside it.
    tail       integer not null default 0 check (tail between 0 and received),
    -- Upload-Metadata as it was sent, for who asks.
    metadata   text not null default '',
    -- Who sends at the moment. Whoever comes later takes it over; the earlier one then stores nothing more.
    claim      uuid
);

grant select, insert, update, delete on storage.uploads to brolly_storage;
