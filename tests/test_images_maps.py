"""Pixel maps, the pictures of a report, new images, and images in the detector's hands."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from flows.cli import main
from vae_core.detector import VAEDetector
from vae_core.images import generation, maps
from vae_core.images.encoding import as_table
from vae_core.images.model import ImageModel

DIGITS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
DATA = Path(__file__).resolve().parent.parent / "data" / "digits"


@pytest.fixture(scope="module")
def detector() -> VAEDetector:
    return VAEDetector(steps=300, random_state=0).fit(DIGITS[:1000])


def model_of(detector: VAEDetector) -> ImageModel:
    assert isinstance(detector.model_, ImageModel)
    return detector.model_


def with_defects(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 2 x 2 square of each image made black or white, whichever is farther away; and where it is."""
    made, place = images.copy(), np.zeros(images.shape, bool)
    for image, mask in zip(made, place, strict=True):
        mask[3:5, 3:5] = True
        image[mask] = 0 if image[mask].mean() > 127 else 255
    return made, place


def test_a_map_shows_where_a_defect_was_planted(detector: VAEDetector) -> None:
    made, place = with_defects(DIGITS[1000:1100])
    found = detector.maps(made)
    assert found.shape == made.shape
    areas = [roc_auc_score(p.ravel(), m.ravel()) for p, m in zip(place, found, strict=True)]
    nearest = DIGITS[np.square(DIGITS[:1000].astype(int) - made[:, None]).sum((2, 3)).argmin(1)]
    apart = np.abs(nearest.astype(int) - made)
    others = [roc_auc_score(p.ravel(), a.ravel()) for p, a in zip(place, apart, strict=True)]
    assert np.mean(areas) > 0.9
    assert np.mean(areas) > np.mean(others)


def test_the_nats_of_the_pixels_sum_to_the_elbo_and_the_kl(detector: VAEDetector) -> None:
    images = DIGITS[1000:1050]
    scores = model_of(detector).score(as_table(images[..., None]))
    total = detector.pixel_nats(images).sum((1, 2))
    np.testing.assert_allclose(total - scores.kl, detector.elbo(images), rtol=1e-6)


def test_the_nearest_normal_image_lies_nearer_to_the_image_before_the_defect(detector: VAEDetector) -> None:
    model, images = model_of(detector), DIGITS[1000:1100]
    made, place = with_defects(images)
    nearest = generation.nearest_normal(model, model.encoding.encode(as_table(made[..., None])))[..., 0]
    before, after = (np.abs(x.astype(int) - images)[place].mean() for x in (made, nearest))
    assert after < 0.5 * before


def test_a_picture_shows_image_expectation_and_map_side_by_side(detector: VAEDetector) -> None:
    model = model_of(detector)
    found = maps.maps(model, model.encoding.encode(as_table(DIGITS[1000:1003, ..., None])))
    picture = np.asarray(Image.open(io.BytesIO(maps.side_by_side(found, 1))))
    height, width = picture.shape[:2]
    assert width > 2.5 * height
    enlarged = DIGITS[1001].repeat(21, 0).repeat(21, 1)
    np.testing.assert_array_equal(picture[4 : 4 + 168, 4 : 4 + 168, 0], enlarged)


def test_the_detector_takes_images_in_every_form(detector: VAEDetector, tmp_path: Path) -> None:
    images = DIGITS[1000:1040]
    scores = detector.score_samples(images)
    np.testing.assert_array_equal(detector.score_samples(images[..., None]), scores)
    np.testing.assert_array_equal(detector.score_samples(images.astype(np.uint16) * 257), scores)
    np.testing.assert_array_equal(detector.score_samples(images / 255), scores)
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    np.testing.assert_array_equal(detector.score_samples(paths), scores)
    np.testing.assert_array_equal(detector.score_samples(pd.Series([str(p) for p in paths])), scores)
    assert not np.array_equal(detector.elbo(images), scores)
    assert set(detector.predict(images)) <= {-1, 1}
    assert detector.explain(images[:2])["why"].str.len().min() > 0


def test_the_detector_samples_in_the_form_that_it_was_given(detector: VAEDetector) -> None:
    made = detector.sample(5)
    assert (made.dtype, made.shape) == (np.uint8, (5, 8, 8))
    fractions = VAEDetector(steps=5).fit(DIGITS[:60, ..., None] / 255).sample(3)
    assert fractions.dtype == np.float64
    assert fractions.shape == (3, 8, 8, 1)
    assert fractions.min() >= 0 and fractions.max() <= 1


@pytest.mark.parametrize(
    "wrong", [np.full((3, 8, 8), 2.0), np.zeros((3, 8, 8, 4), np.uint8), np.zeros((3, 8, 8), int), ["no.png"]]
)
def test_what_is_no_image_is_refused_in_one_line(detector: VAEDetector, wrong: object) -> None:
    with pytest.raises(ValueError, match=r"fractions of white|channels|0 to 1|No such file"):
        detector.score_samples(wrong)


def test_tables_and_images_are_not_mixed_up(detector: VAEDetector) -> None:
    with pytest.raises(ValueError, match="fitted to images"):
        detector.score_samples(DIGITS[:5].reshape(5, -1))
    table = VAEDetector(steps=5).fit(np.random.default_rng(0).normal(size=(60, 3)))
    with pytest.raises(ValueError, match="fitted to a table"):
        table.maps(np.zeros((2, 3)))


def test_images_go_through_the_commands_like_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", str(DATA / "train.parquet"), "--id", "record_id", "--name", "digits", "--steps", "200"]
    assert main(train) == 0
    assert "probabilistic PCA" in " ".join(capsys.readouterr().out.split())
    model = ["--model", "models:/digits@champion"]
    assert main(["score", str(DATA / "test.parquet"), *model, "--top-k", "24", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = Path(told["folder"])
    report = pq.read_table(folder / "report.parquet").to_pandas()
    assert list(report.columns[-3:]) == ["elbo_excess", "complexity_bits", "part"]
    defect = report["record_id"].str.startswith("defect")
    assert len(report) == 321
    assert roc_auc_score(defect, report["anomaly_score"]) > 0.9
    manifest = json.loads((folder / "_manifest.json").read_text())
    pictures = [f"images/rank-{rank:06d}.png" for rank in range(1, 21)]
    assert [name for name in manifest["files"] if name.startswith("images/")] == pictures
    assert main(["explain", str(folder), report["record_id"][0]]) == 0
    assert "rank-000001.png" in capsys.readouterr().out
    assert main(["score", str(DATA / "test.parquet"), *model, "--rank-by", "elbo", "--json"]) == 0
    pure = pq.read_table(Path(json.loads(capsys.readouterr().out)["folder"]) / "report.parquet").to_pandas()
    np.testing.assert_array_equal(pure["anomaly_score"], -pure["elbo"])
    assert main(["generate", *model, "--n", "40", "--output", "made", "--json"]) == 0
    realism = json.loads(capsys.readouterr().out)["realism"]
    assert 0.4 < realism["vae"] <= 1 and 0.4 < realism["ppca"] <= 1
    assert len(list(Path("made").glob("0*.png"))) == 40
    assert Image.open("made/contact_sheet.png").size[0] > 500
    assert main(["generate", *model, "--n", "3", "--output", "made.npz"]) == 0
    assert np.load("made.npz", allow_pickle=False)["X"].shape == (3, 8, 8, 1)
    assert main(["generate", *model, "--n", "1", "--like", "made/000001.png", "--output", "like.png"]) == 0
    assert Image.open("like.png").size == (8, 8)
    assert main(["score", "made", *model, "--dataset", "made"]) == 0
    capsys.readouterr()
    Path("table.csv").write_text("a,b\n1,2\n")
    assert main(["score", "table.csv", *model]) == 2
    assert "there is no image here" in capsys.readouterr().err


def test_an_image_file_is_judged_by_its_path_and_an_arrays_image_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / "home"))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    for n, image in enumerate(images):
        place = tmp_path / "tiles" / f"day{n % 2}" / f"{n:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    np.save("tiles.npy", images)
    train = ["train", "tiles", "--name", "tiles", "--steps", "5", "--json"]
    assert main(train) == 0
    score = ["--model", "models:/tiles@champion", "--top-k", "3", "--json"]
    capsys.readouterr()
    assert main(["score", "tiles.npy", *score]) == 0
    folder = json.loads(capsys.readouterr().out)["folder"]
    assert main(["feedback", "add", folder, "tiles.npy#7", "--verdict", "anomaly"]) == 2
    assert "Keep each image in a file of its own" in capsys.readouterr().err
    assert main(["score", "tiles", *score, "--output", "again"]) == 0
    told = json.loads(capsys.readouterr().out)
    first = told["top"][0]["record_id"]
    assert first.startswith("day") and first.endswith(".png")
    say = ["feedback", "add", told["folder"], first, "--note", "wet lens", "--verdict"]
    assert main([*say, "expected"]) == 0
    capsys.readouterr()
    assert main(["report", told["folder"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"][0]["feedback_note"] == "wet lens"
    assert main([*say, "anomaly"]) == 0
    capsys.readouterr()
    assert main(train) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["rows"], again["confirmed_left_out"]) == (39, 1)
