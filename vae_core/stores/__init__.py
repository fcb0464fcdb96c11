"""Object stores (S3 and what speaks its language) as places for input and reports; work is on local disk.

A store has no rename of folders, so that the manifest, written last, is the commit point of a report: readers
trust only folders that have one.
"""

from vae_core.stores.inputs import fetch
from vae_core.stores.lease import lease
from vae_core.stores.objects import Store, is_http, is_remote, open_store, parted
from vae_core.stores.reports import current, fetch_report, of_intervals, publish, published, read_manifest

__all__ = [
    "Store", "current", "fetch", "fetch_report", "is_http", "is_remote", "lease", "of_intervals",
    "open_store", "parted", "publish", "published", "read_manifest",
]  # fmt: skip
