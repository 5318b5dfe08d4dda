"""The HTTP side: knows nothing of training. Importing this imports nothing."""
