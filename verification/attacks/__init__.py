"""How the domains of the bounds are searched; each claim names its own searches."""
