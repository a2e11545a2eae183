"""A reason in our own words why a bundle, or an input, can't be run."""

from __future__ import annotations


class Refusal(Exception):
    """Said to whoever asked; the process goes on."""
