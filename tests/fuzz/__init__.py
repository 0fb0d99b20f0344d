"""Random files at every door: an error of the door's own kind, or a result; nothing else."""
