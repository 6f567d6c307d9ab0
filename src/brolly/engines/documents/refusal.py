"""Why a document is not read."""


class RefusedError(Exception):
    """The reason in one word, as the reader knows them."""
