"""Making bundles: data, training, import of checkpoints. The service never imports it."""
