"""Claims on mixing matrices."""
