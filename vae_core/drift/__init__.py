"""Has the data shifted since training? Small counts from each unit add up to one verdict for each column."""

from vae_core.drift.counts import Profile, profile_of
from vae_core.drift.distances import DRIFT, SCHEMA, SCORE, read, summary, table

__all__ = ["DRIFT", "SCHEMA", "SCORE", "Profile", "profile_of", "read", "summary", "table"]
