-- Collections whose vectors are being made anew by another model. The row goes when the new ones have taken the place
-- of the old ones; the chunks' table has a column embedding_next meanwhile.

create table rag.reembeds (
    collection_id  uuid primary key references rag.collections (id) on delete cascade,
    model          text not null,
    dimensions     integer not null check (dimensions between 1 and 4000),
    -- Of the request. A newer one has another: what works for this one then stores nothing.
    token          uuid not null,
    done           bigint not null default 0,
    total          bigint not null default 0,
    error_message  text,
    started_at     timestamptz not null default now()
);

grant select, insert, update, delete on rag.reembeds to brolly_rag;
-- The change is one transaction with that of the chunks' table, which belongs to the owner role.
grant select (collection_id, token), delete on rag.reembeds to brolly_owner;
grant select (document_id), update (embedding) on rag.staged_chunks to brolly_owner;
grant select (id, collection_id) on rag.documents to brolly_owner;
