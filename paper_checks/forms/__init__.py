"""Forms of W - W0 at small scale: what they keep, and at what error, under ways of mixing."""
