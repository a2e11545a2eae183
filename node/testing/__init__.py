"""Shipped doubles: phantoms with a known answer, a small PACS, the suites that plug-ins must pass."""

from node.testing.studies import a_study, write_study

__all__ = ["a_study", "write_study"]
