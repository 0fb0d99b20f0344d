"""Small programs that compute the library's numbers in another way, sharing no code with it."""
