"""Guests: bundles that drop in. What they bring is code, so each runs in a process of its own that can reach and change nothing."""
