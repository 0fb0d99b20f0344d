"""Rows of claims along a curve: over ranks, angles, topologies or steps, for the figures."""
