"""Takes the pictures of docs/gallery.md: `make gallery`, with a Chromium as `make browser-test` has it.

Trains and scores the weather and the digits that come along, in a temporary folder, and takes their pages.
`python -m tests.make_gallery --reports FOLDER` keeps the reports there, and takes up what it finds.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLOURS = 128  # a palette: a third of the bytes, and the same to the eye
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINTER = "2013-03-01"
WEATHER = [
    [
        "train",
        "data/nyc_weather/",
        "--from",
        WINTER,
        "--name",
        "nyc-weather",
        "--id",
        "origin",
        "--id",
        "time_hour",
    ],
    ["score", "data/nyc_weather/", "--until", WINTER, "--model", "models:/nyc-weather", "--fdr", "0.05"],
]
DIGITS = [
    ["train", "data/digits/train.parquet", "--id", "record_id", "--name", "digits"],
    ["score", "data/digits/test.parquet", "--model", "models:/digits", "--top-k", "24"],
]


@dataclass(frozen=True)
class Shot:
    """One picture: whose page, in what window, and what is done before."""

    dataset: str
    width: int
    height: int
    scheme: str = "light"
    scale: float = 1.0
    opened: int = 0  # so many of the first records
    at: str | None = None  # a section to scroll to


SHOTS = {
    "weather-laptop": Shot("nyc-weather", 1440, 1000, opened=1),
    "weather-scores": Shot("nyc-weather", 1440, 1000, at="#scores"),
    "weather-phone-dark": Shot("nyc-weather", 390, 844, "dark", 1.5, opened=1, at="#ranking"),
    "digits-laptop": Shot("test", 1440, 1000, opened=1, at="#ranking"),
}


def reports(place: Path) -> dict[str, Path]:
    """Train and score what is not there yet; dataset -> its page."""
    from flows.cli import main

    os.environ["ELBORANK_HOME"] = str(place / "home")
    os.chdir(ROOT)
    for train, score in (WEATHER, DIGITS):
        for command in (train, [*score, "--output", str(place / "reports")]):
            if main(command):
                raise SystemExit(f"elborank {' '.join(command)} did not end well")
    return {page.parts[-3]: page for page in sorted((place / "reports").glob("*/*/report.html"))}


def photograph(browser: Any, page: Path, shot: Shot) -> bytes:
    """The window as a PNG with a palette."""
    size = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=size, color_scheme=shot.scheme, device_scale_factor=shot.scale)
    tab = context.new_page()
    tab.set_default_timeout(120_000)
    tab.goto(page.as_uri())
    for row in tab.locator(".ranking > tbody > tr").all()[: shot.opened]:
        row.locator("summary").first.click()
    if shot.at:
        tab.evaluate(f"document.querySelector('{shot.at}').scrollIntoView()")
    tab.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    context.close()
    small = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def take(place: Path) -> None:
    """All pictures into docs/pictures."""
    from playwright.sync_api import sync_playwright

    pages = reports(place)
    found = os.environ.get("ELBORANK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, shot in SHOTS.items():
            content = photograph(browser, pages[shot.dataset], shot)
            (PICTURES / f"{name}.png").write_bytes(content)
            print(f"docs/pictures/{name}.png  {len(content) / 1000:.0f} kB")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, help="keep models and reports in this folder")
    chosen = parser.parse_args()
    if chosen.reports:
        take(chosen.reports.absolute())
    else:
        with tempfile.TemporaryDirectory() as place:
            take(Path(place))


if __name__ == "__main__":
    main()
