"""Brolly: a self-hosted backend that coding agents operate."""

__version__ = "0.1.0"
