"""Prefect flows, the model registry and the command line: thin layers over `vae_core`."""
