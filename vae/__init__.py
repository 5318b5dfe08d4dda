"""The command `vae`: one entry point to the command lines of `service` and `model`.

It imports neither until a command needs them, so that `vae --help` does not wait for torch.
"""
