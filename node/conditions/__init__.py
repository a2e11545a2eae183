"""What a rule may ask of a series."""
