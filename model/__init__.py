"""The network: knows nothing of HTTP. Importing this imports nothing."""
