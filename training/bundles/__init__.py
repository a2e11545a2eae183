"""One file per pipeline: what its bundle says of itself, how it is measured, and its model card."""
