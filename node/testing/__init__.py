"""Shipped doubles: phantoms with a known answer, a small PACS, the suites that plug-ins must pass."""

from node.testing.canary import canary_study
from node.testing.clean import clean_study
from node.testing.studies import a_study, write_study

__all__ = ["a_study", "canary_study", "clean_study", "write_study"]
