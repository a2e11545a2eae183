"""Networks of our own that a bundle may name in `network_def`; torch is imported here, so only a worker opens this room."""
