"""The promises under load, measured: `make soak`."""
