"""Check the theory of decentralized low-rank adaptation by computation."""

from importlib.metadata import version

__version__ = version("decaf-theory")
