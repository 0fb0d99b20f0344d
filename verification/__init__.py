"""The main job: every claim of the theory gets a verdict. Run `python -m verification`."""
