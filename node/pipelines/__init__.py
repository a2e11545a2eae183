"""From volume to findings: one file a pipeline."""
