"""Between bytes and arrays: one module per format."""
