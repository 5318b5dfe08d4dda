"""What runs between the request handlers and the network: admission, batching, health, loading."""
