"""The table of one collection's chunks: its columns, its indexes, and who may read it.

Made with the owner role, like every table of the app, so that ``manage_rls`` writes its policies in access mode
``custom``. The rag slice writes it as ``brolly_rag``, which passes where the service role does.
"""

from __future__ import annotations

import re
from uuid import uuid4

from brolly.pg.identifiers import derived_name, literal, quote

ANON, USER, SERVICE = "butterbase_anon", "butterbase_user", "butterbase_service"
MOST_DIMENSIONS = 4000
_MOST_AS_VECTOR = 2000
"""What an index over full precision takes; above, the numbers are kept in half of it."""
_NOT_IN_NAMES = re.compile("[^a-z0-9_]")


def table_name(collection: str, taken: bool = False) -> str:
    """``rag_<name>``; with something unique at the end where that is ``taken``."""
    base = "rag_" + _NOT_IN_NAMES.sub("_", collection)
    return derived_name(base, f"_{uuid4().hex[:8]}" if taken else "")


def vector_type(dimensions: int) -> str:
    """The type of a vector of that length which an index takes; queries cast to it as well."""
    return f"public.{'vector' if dimensions <= _MOST_AS_VECTOR else 'halfvec'}({dimensions})"


def vector_operators(dimensions: int) -> str:
    """The operators by which an index over vectors of that length compares."""
    return f"public.{'vector' if dimensions <= _MOST_AS_VECTOR else 'halfvec'}_cosine_ops"


def create_statements(table: str, dimensions: int, language: str, access_mode: str) -> list[str]:
    """What makes the table with its indexes and policies. ``language`` is a text search configuration that exists."""
    name = f"public.{quote(table)}"
    kind = vector_type(dimensions)
    words = f"to_tsvector({literal('pg_catalog.' + language)}::regconfig, heading || ' ' || content)"
    return [
        f"create table {name} ("
        "id uuid primary key default gen_random_uuid(), "
        "document_id uuid not null references rag.documents (id) on delete cascade, "
        "user_id text, "
        "position integer not null, "
        "content text not null, "
        "heading text not null default '', "
        "page integer, start_offset integer not null, end_offset integer not null, tokens integer not null, "
        "metadata jsonb not null default '{}', "
        f"embedding {kind} not null, "
        f"words tsvector generated always as ({words}) stored, "
        "unique (document_id, position))",
        f"create index {_index(table, 'embedding')} on {name} using hnsw (embedding {vector_operators(dimensions)})",
        f"create index {_index(table, 'words')} on {name} using gin (words)",
        f"create index {_index(table, 'metadata')} on {name} using gin (metadata jsonb_path_ops)",
        f"create index {_index(table, 'user')} on {name} (user_id)",
        *_protect(name, table, access_mode),
    ]


def _index(table: str, of: str) -> str:
    return quote(derived_name(table, f"_{of}_idx"))


def _protect(name: str, table: str, access_mode: str) -> list[str]:
    """Row-level security as ``manage_rls`` sets it up, with the policy of the access mode."""
    made = [
        f"alter table {name} enable row level security",
        f"alter table {name} force row level security",
        # The name by which manage_rls knows it.
        f"create policy {quote(derived_name(table, '_service_bypass'))} on {name} to {SERVICE} using (true) "
        "with check (true)",
    ]
    if access_mode == "custom":
        # The policies decide, and there is none yet.
        return [*made, f"grant select, insert, update, delete on {name} to {ANON}"]
    made.append(f"revoke insert, update, delete on {name} from {USER}")
    who = "true" if access_mode == "shared" else "user_id = public.current_user_id()"
    made.append(f"create policy {quote(derived_name(table, '_readers'))} on {name} for select to {USER} using ({who})")
    return made


def drop_statement(table: str) -> str:
    """What removes the table with all that hangs on it, such as views of the app's."""
    return f"drop table if exists public.{quote(table)} cascade"
