"""Claims on related methods of the literature."""
