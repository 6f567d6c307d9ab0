"""Starts brolly as installed."""

from brolly.cli import main

main()
