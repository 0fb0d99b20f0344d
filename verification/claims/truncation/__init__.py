"""Claims on truncating the mixed product, and on what methods conserve."""
