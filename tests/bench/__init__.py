"""Benches: what is measured, never timed in a test."""

import warnings

# Benches rank small tables; what `predict` would flag is no matter there.
warnings.filterwarnings("ignore", message=".*too few for a p-value")
