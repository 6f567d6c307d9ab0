"""The Postgres that comes in the wheel: where it may live, as whom it runs, how it starts and stops."""

from brolly.pg.embedded.process import EmbeddedPostgres, embedded_postgres
from brolly.pg.embedded.runas import remove_data_folder

__all__ = ["EmbeddedPostgres", "embedded_postgres", "remove_data_folder"]
