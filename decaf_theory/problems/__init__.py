"""Exactly specified problems with proved constants."""
