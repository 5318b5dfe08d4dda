"""The page for browsers at /, which shows what the network sees."""
