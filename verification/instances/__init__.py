"""The instances on which claims are tried, shared by claims, attacks and tests."""
