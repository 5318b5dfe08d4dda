"""The HTTP service. Importing this package imports none of its modules."""
