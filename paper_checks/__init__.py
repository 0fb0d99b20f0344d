"""The paper's experiments, and fine-tuning of full-size models."""
