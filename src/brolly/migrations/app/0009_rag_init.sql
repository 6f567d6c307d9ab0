-- The app's collections of documents, for search. In the app's own database, so that they move with it. No caller's
-- role reaches this schema; brolly_rag is taken on by the rag slice alone. What is searched, the chunks, lies in a
-- table of each collection's own in schema public: its vectors have one length and come from one model, and its
-- policies say who reads them.

create schema rag;
revoke all on schema rag from public;
grant usage on schema rag to brolly_rag, brolly_owner;

create table rag.collections (
    id               uuid primary key,
    name             text not null unique,
    description      text,
    access_mode      text not null check (access_mode in ('private', 'shared', 'custom')),
    chunk_size       integer not null check (chunk_size between 100 and 4000),
    chunk_overlap    integer not null check (chunk_overlap between 0 and 500),
    -- The text search configuration of its full-text index.
    language         text not null,
    -- What its vectors are: those of another model have no distance to them.
    embedding_model  text not null,
    dimensions       integer not null check (dimensions between 1 and 4000),
    -- In schema public. Another one takes its place when the collection is embedded anew.
    chunk_table      text not null unique,
    -- Null for a service key; its account is in the audit log.
    created_by       text,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now()
);

create table rag.documents (
    id                 uuid primary key,
    collection_id      uuid not null references rag.collections (id) on delete cascade,
    -- Whose it is; null for what a service key brought.
    user_id            text,
    filename           text not null,
    content_type       text,
    source_type        text not null check (source_type in ('text', 'storage')),
    storage_object_id  uuid,
    -- What is to be read, until it has been; files are read from the store.
    source_text        text,
    size_bytes         bigint not null,
    -- Of the source's bytes: the same ones are not taken in twice.
    content_hash       text not null,
    metadata           jsonb not null default '{}',
    status             text not null default 'pending' check (status in ('pending', 'processing', 'ready', 'failed')),
    error_code         text,
    error_message      text,
    -- Counts up when the source is replaced: a job for an older one finds nothing to do.
    revision           integer not null default 1,
    attempts           integer not null default 0,
    -- Who works on it at the moment. Whoever takes it over changes it; the earlier one then stores nothing.
    claim              uuid,
    chunks_done        integer not null default 0,
    chunks_total       integer,
    -- Of the chunks that are searched now.
    chunk_count        integer not null default 0,
    token_count        bigint not null default 0,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    processed_at       timestamptz
);
create index documents_newest on rag.documents (collection_id, created_at desc, id desc);
create index documents_user on rag.documents (collection_id, user_id, created_at desc, id desc);
create index documents_status on rag.documents (collection_id, status);
create index documents_same on rag.documents (collection_id, content_hash);

-- The chunks of a document on their way: what has its vector already is not sent to the model again, whoever goes on
-- with it. They take the place of the document's former ones in one transaction.
create table rag.staged_chunks (
    document_id   uuid not null references rag.documents (id) on delete cascade,
    revision      integer not null,
    position      integer not null,
    content       text not null,
    heading       text not null,
    page          integer,
    start_offset  integer not null,
    end_offset    integer not null,
    tokens        integer not null,
    embedding     real[],
    primary key (document_id, revision, position)
);
create index staged_chunks_waiting on rag.staged_chunks (document_id, revision, position) where embedding is null;

grant select, insert, update, delete on rag.collections, rag.documents, rag.staged_chunks to brolly_rag;
-- Collections come and go with their chunks' table, which belongs to the owner role. It reads no document.
grant select (id), insert, delete on rag.collections to brolly_owner;
grant update (chunk_table, embedding_model, dimensions, updated_at) on rag.collections to brolly_owner;
grant references (id) on rag.documents to brolly_owner;
