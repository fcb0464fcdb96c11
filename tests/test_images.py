"""Images: what the model says of them adds up, is repeatable, and holds for simple images."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy.stats import entropy
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from vae_core import storage
from vae_core.images import training
from vae_core.images.complexity import png_bits
from vae_core.images.encoding import ImageEncoding, as_table
from vae_core.images.explanation import explain
from vae_core.images.model import ImageModel
from vae_core.images.pictures import png
from vae_core.images.pixels import Shape
from vae_core.model import VAE
from vae_core.training import Settings

DIGITS = np.rint(load_digits().images[..., None] * (255 / 16)).astype(np.uint8)  # (1797, 8, 8, 1)
SHAPE = Shape(8, 8, 1)


def fitted(images: np.ndarray, shape: Shape = SHAPE, **settings: object) -> ImageModel:
    return training.fit(
        lambda: iter(as_table(images).to_batches()),
        shape,
        settings=Settings(**{"steps": 300, **settings}),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return fitted(DIGITS[:1000])


def test_a_score_depends_on_its_image_alone(model: ImageModel) -> None:
    images = DIGITS[1000:1150]
    together = model.score(as_table(images))
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = model.score(as_table(images[order]))
    alone = model.score(as_table(images[77:78]))
    for name in ("anomaly_score", "elbo", "kl", "elbo_excess", "complexity_bits"):
        np.testing.assert_array_equal(getattr(together, name)[order], getattr(shuffled, name))
        assert getattr(alone, name)[0] == getattr(together, name)[77]


def test_the_reasons_and_the_rest_sum_to_the_bound(model: ImageModel) -> None:
    table = as_table(DIGITS[1000:1050])
    told = explain(model, table, top=5).to_pylist()
    bound = model.score(table).bound
    for row, entry in enumerate(told):
        assert entry["tilt_nats"] == 0
        total = sum(reason["nats"] for reason in entry["reasons"]) + entry["rest_nats"]
        assert total == pytest.approx(bound[row], rel=1e-9)
        assert 1 <= len(entry["reasons"]) <= 5
        assert entry["why"]


def test_a_stored_model_scores_the_same(model: ImageModel, tmp_path: Path) -> None:
    storage.save(model, tmp_path / "model")
    loaded = storage.load(tmp_path / "model")
    table = as_table(DIGITS[1000:1100])
    for name in ("anomaly_score", "elbo", "p_value", "part"):
        np.testing.assert_array_equal(getattr(loaded.score(table), name), getattr(model.score(table), name))


def test_every_part_of_the_score_is_calibrated_and_the_largest_counts(model: ImageModel) -> None:
    scores = model.score(as_table(DIGITS[1000:1200]))
    z = {name: scale.z(scores.parts[name]) for name, scale in model.scales.items()}  # type: ignore[attr-defined]
    np.testing.assert_allclose(scores.anomaly_score, np.max(list(z.values()), axis=0))
    for row, name in enumerate(scores.part):  # type: ignore[attr-defined]
        assert z[name][row] == scores.anomaly_score[row]


def test_ranked_by_the_elbo_the_score_is_the_pure_bound(model: ImageModel) -> None:
    scores = model.ranked_by("elbo").score(as_table(DIGITS[1000:1100]))
    np.testing.assert_array_equal(scores.anomaly_score, -scores.elbo)
    assert set(scores.part) == {"elbo"}  # type: ignore[attr-defined]
    assert ((scores.p_value > 0) & (scores.p_value <= 1)).all()


def test_the_score_finds_simple_foreign_images_too(model: ImageModel) -> None:
    normal = DIGITS[1000:1200]
    generator = np.random.default_rng(0)
    foreign = {
        "noise": generator.integers(0, 256, normal.shape).astype(np.uint8),
        "flat": np.broadcast_to(generator.integers(0, 256, (200, 1, 1, 1)), normal.shape).astype(np.uint8),
        "inverted": 255 - normal,
        "half contrast": normal // 2,
        "black": np.zeros_like(normal),
    }
    usual = model.score(as_table(normal)).anomaly_score
    for name, images in foreign.items():
        score = model.score(as_table(images)).anomaly_score
        labels = np.r_[np.zeros(len(usual)), np.ones(len(score))]
        assert roc_auc_score(labels, np.r_[usual, score]) > 0.95, name


def test_the_excess_is_the_lectures_elbo_over_the_best_that_any_parameters_could_do() -> None:
    """Best: each pixel's Bernoulli term at its own grey value, minus the entropy of that coin in nats."""
    small = fitted(DIGITS[:200], likelihood="bernoulli", steps=30)  # the lecture's VAE: its elbo is this one
    grey = np.random.default_rng(0).integers(1, 255, (50, 8, 8, 1)).astype(np.uint8)
    scores = small.score(as_table(grey))
    coins = grey.reshape(50, -1) / 255
    best = -entropy(np.stack([coins, 1 - coins])).sum(1)
    assert best.max() < -20
    np.testing.assert_allclose(scores.elbo - scores.elbo_excess, best, rtol=1e-6)  # type: ignore[attr-defined]
    assert (scores.elbo_excess < 0).all()  # type: ignore[attr-defined]


def test_the_excess_hears_whole_pairs_of_draws_and_in_older_models_the_first_of_each_block() -> None:
    """Whole pairs differ as many draws do; draws that are no pairs are heard as they were."""
    model = fitted(DIGITS[:300], steps=60)
    table = as_table(DIGITS[300:400])
    exact, paired = (model.with_draws(n).score(table).elbo_excess for n in (256, 8))
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn((4, 2, model.vae.architecture.latent), generator=generator)
    first = [replace(model, noise=noise).score(table).elbo_excess for noise in (apart, apart[:, :1])]
    np.testing.assert_array_equal(*first)
    assert np.std(paired - exact) < 0.5 * np.std(first[0] - exact)  # a record's own error, which moves ranks


def test_complexity_is_the_length_of_a_pngs_data() -> None:
    for image, bits in zip(DIGITS[:50], png_bits(DIGITS[:50]), strict=True):
        file = png(image)
        data, place = b"", 8
        while place < len(file):
            size = int.from_bytes(file[place : place + 4], "big")
            if file[place + 4 : place + 8] == b"IDAT":
                data += file[place + 8 : place + 8 + size]
            place += 12 + size
        assert len(zlib.decompress(data)) == 8 * 9
        assert bits / 8 == pytest.approx(len(data), rel=0.2)  # Pillow chooses its filters in another way


def test_complexity_rises_from_flat_over_digits_to_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    flat = np.full((20, 8, 8, 1), 100, np.uint8)
    assert png_bits(flat).max() < png_bits(DIGITS[:20]).min()
    assert png_bits(DIGITS[:20]).mean() < png_bits(noise).min()


@pytest.mark.parametrize("likelihood", training.IMAGE_LIKELIHOODS)
def test_every_likelihood_of_images_trains_and_scores(likelihood: str) -> None:
    small = fitted(DIGITS[:200], likelihood=likelihood, steps=30)
    scores = small.score(as_table(DIGITS[200:220]))
    assert np.isfinite(scores.anomaly_score).all()
    assert small.summary["likelihoods"] == {"image": likelihood}
    assert (small.lecture is None) == (likelihood == "bernoulli")


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (31, 40, 1), (64, 48, 3)])
@pytest.mark.parametrize("likelihood", ["grey_bernoulli", "discretised_logistic"])
def test_convolutions_give_parameters_for_every_pixel_of_any_size(
    shape: tuple[int, int, int], likelihood: str
) -> None:
    architecture = training.architecture(Shape(*shape), Settings(), likelihood)
    architecture = type(architecture).from_json(architecture.to_json() | {"channels": 4, "members": 2})
    vae = VAE(architecture)
    values = torch.rand(3, int(np.prod(shape)))
    mean, log_variance = vae.encode(vae.inputs(values, values), torch.zeros(3, 0))
    assert mean.shape == log_variance.shape == (2, 3, 16)
    parameters = vae.decode(mean, torch.zeros(3, 0))
    terms = vae.log_prob(values, parameters, torch.ones(values.shape, dtype=torch.bool))
    assert terms.shape == (2, 3, int(np.prod(shape)))
    assert torch.isfinite(terms).all()


def test_members_of_a_convolutional_ensemble_do_not_mix() -> None:
    architecture = training.architecture(Shape(32, 32, 1), Settings(members=2), "grey_bernoulli")
    vae = VAE(architecture)
    values = torch.rand(2, 1024)
    before = vae.encode(vae.inputs(values, values), torch.zeros(2, 0))[0]
    with torch.no_grad():
        for convolution in vae.encoder.convolutions:  # type: ignore[union-attr]
            convolution.weight[: len(convolution.weight) // 2] += 1  # the first member's
    after = vae.encode(vae.inputs(values, values), torch.zeros(2, 0))[0]
    assert not torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])


def test_a_convolutional_models_score_depends_on_its_image_alone() -> None:
    images = np.asarray([np.asarray(Image.fromarray(d[..., 0]).resize((32, 32))) for d in DIGITS[:130]])[
        ..., None
    ]
    small = fitted(images[:80], Shape(32, 32, 1), steps=5)
    together = small.score(as_table(images)).elbo
    assert small.score(as_table(images[99:100])).elbo[0] == together[99]
    np.testing.assert_array_equal(small.score(as_table(images[::-1])).elbo[::-1], together)


def test_pixels_come_back_from_the_models_values() -> None:
    for depth, dtype in ((8, np.uint8), (16, np.uint16)):
        encoding = ImageEncoding(Shape(8, 8, 3, depth))
        images = np.random.default_rng(0).integers(0, 1 << depth, (5, 8, 8, 3)).astype(dtype)
        values = encoding.encode(as_table(images)).values
        assert values.min() >= 0 and values.max() <= 1
        np.testing.assert_array_equal(encoding.levels_of(values), images)
        np.testing.assert_array_equal(encoding.pixels(encoding.decode(values)), images)


def test_an_image_of_another_size_is_refused_by_its_row(model: ImageModel) -> None:
    with pytest.raises(ValueError, match='column "image", row 2: holds 3 bytes, not 64'):
        model.score(pa.table({"image": [DIGITS[0].tobytes(), b"abc"]}))
