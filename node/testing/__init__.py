"""Shipped doubles: phantoms with a known answer, a small PACS, the suites that plug-ins must pass."""
