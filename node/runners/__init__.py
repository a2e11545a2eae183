"""Where a Job runs."""
