"""Pipelines with real faults, and some without: what a runner must live with."""
