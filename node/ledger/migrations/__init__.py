"""How the ledger tables came to be, step by step (Alembic)."""
