"""Builds front ends from source: installs what they need, runs their build, shut in as far as the system can."""
