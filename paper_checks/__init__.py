"""What ties the code to the paper and to full-size models."""
