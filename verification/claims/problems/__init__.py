"""Claims on single problems where a method fails."""
