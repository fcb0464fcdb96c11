"""Anomaly ranking by a variational autoencoder's lower bound on log P(x)."""

__version__ = "0.1.0"
