"""One file per pipeline, with the same file name as in node/pipelines."""
