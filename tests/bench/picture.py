"""Draw docs/speed.svg from the benches: python -m tests.bench.picture docs/speed.json docs/speed.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OURS = "#1b6ca8"
PEERS, BOUND = "#9aa5b1", "#d98e04"


def draw(results: dict[str, Any], target: Path) -> None:
    """Left: processor time of a record, scored from Parquet to a ranked file. Right: how cost grows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "elborank"  # the same results, the same bytes
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
    found = {
        k: v for k, v in results["scoring"]["microseconds_a_record"].items() if not k.startswith("bound")
    }
    ours = results["scoring"]["times_pyod_default"]
    shares = results["scoring"]["share_of_bound"]
    order = sorted(found, key=lambda name: found[name]["median"], reverse=True)
    for place, name in enumerate(order):
        value = found[name]
        error = [[value["median"] - value["min"]], [value["max"] - value["median"]]]
        left.barh(place, value["median"], xerr=error, color=OURS if name in ours else PEERS, height=0.7)
        if name in shares:
            bound = shares[name] * value["median"]
            left.plot([bound, bound], [place - 0.4, place + 0.4], color=BOUND, linewidth=2.5)
    left.set_yticks(range(len(order)), [f"elborank: {name}" if name in ours else name for name in order])
    left.set_xscale("log")
    left.set_xlabel("microseconds of processor time a record (log scale)")
    left.set_title("Parquet to ranked Parquet; orange: read + products + write", fontsize=10)
    for name, series in results["growth"].items():
        if isinstance(series, dict):
            first_size, first = series["sizes"][0], series["seconds"][0]
            line = "-" if name.startswith("score") else "--"
            times = [size / first_size for size in series["sizes"]]
            label = f"{name} (exponent {series['exponent']})"
            right.plot(times, [s / first for s in series["seconds"]], line, marker="o", label=label)
    right.plot([1, 16], [1, 16], ":", color="black", label="linear")
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xlabel("times the smallest size")
    right.set_ylabel("times its cost")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
