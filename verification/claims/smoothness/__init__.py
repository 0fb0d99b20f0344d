"""Claims on the smoothness of LoRA objectives and on the set of Assumption 2."""
