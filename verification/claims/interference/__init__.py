"""Claims on consensus interference: what averaging factors does to their products."""
