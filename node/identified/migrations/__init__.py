"""How the identified tables came to be, step by step (Alembic)."""
