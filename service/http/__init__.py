"""The life of one request, whichever route it takes."""
