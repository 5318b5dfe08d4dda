"""Between arrays and the network: admission, batches, health, loading."""
