"""A process of its own that fetches a model and scores records: `python -m flows.clean_load URI IN OUT`.

Promotion asks it whether a version loads where nothing else has been loaded before. From the moment that the
model's folder is found, an attempt to unpickle anything ends the process.
"""

from __future__ import annotations

import sys
from typing import Any


def main(address: str, records: str, scores: str) -> int:
    """Write the anomaly scores of a Parquet file's records, (n,) float64, to an npy file."""
    import numpy as np
    import pyarrow.parquet as pq

    from flows import registry
    from vae_core import storage
    from vae_core.errors import InputError

    try:
        version = registry.resolve(address)
        sys.addaudithook(_no_pickles)
        model = storage.load(version.folder)
        found = model.score(pq.read_table(records)).anomaly_score
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    np.save(scores, np.asarray(found, dtype=np.float64), allow_pickle=False)
    return 0


def _no_pickles(event: str, _arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        raise RuntimeError("the model tried to unpickle something")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
