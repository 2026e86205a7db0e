"""The seal over the journal, its checkpoints, and what is proved by them; pure."""
