"""The detector of photographs: a frozen backbone, a VAE over its features, texture."""
