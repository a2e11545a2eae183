"""Rules with a memory: revisions, who published what and why, what a draft would do, and the rules as a form."""
