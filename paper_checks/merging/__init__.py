"""Real adapters merged into one at several ranks, and what the merged models score."""
