"""The variables that Kubernetes sets for a Service whose name is the prefix of the settings."""

from __future__ import annotations

LINKS = {
    "VAE_SERVICE_HOST": "10.0.0.1",
    "VAE_SERVICE_PORT": "8000",
    "VAE_SERVICE_PORT_HTTP": "8000",
    "VAE_PORT": "tcp://10.0.0.1:8000",
    "VAE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "VAE_PORT_8000_TCP_PROTO": "tcp",
    "VAE_PORT_8000_TCP_PORT": "8000",
    "VAE_PORT_8000_TCP_ADDR": "10.0.0.1",
}
"""What Kubernetes puts into each pod of a namespace that has a Service named `vae`."""
