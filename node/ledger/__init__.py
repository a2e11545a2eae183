"""What must not be forgotten, clean side: jobs, results, decisions, the audit trail."""
