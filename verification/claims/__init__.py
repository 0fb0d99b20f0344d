"""All claims, in reading order. A new one is a file here and a line in this list."""
