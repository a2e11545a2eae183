"""What `radnode` can be asked to do: one file a command."""
