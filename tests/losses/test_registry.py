"""Losses from configs: their names, weights, syntheses, options and what they log."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import errors, losses, synthesis

RECORDED = np.load("tests/records/losses.npz")
BATCH = [RECORDED[f"small/{name}"] for name in ("anchor", "positive", "labels")]


def evaluate(*specs):
    """The value and the metrics of the losses of a config."""
    return jax.jit(losses.from_config(specs))(*BATCH)


def test_losses_are_summed_with_their_weights():
    both = ({"name": "npair", "weight": 2.0}, {"name": "npair", "synthesis": "symmetric"})
    expected = 2 * RECORDED["small/npair/loss"] + RECORDED["small/symm_npair|l2_norm=False|l2_reg=True/loss"]
    value, metrics = evaluate(*both)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    shares = {name: float(x) for name, x in metrics.items()}
    assert set(shares) == {"npair/synthetic_share"} | {
        f"npair/winner_{k}_{l}" for k in range(4) for l in range(k + 1, 4)
    }
    assert sum(x for name, x in shares.items() if "winner" in name) == pytest.approx(1)
    assert shares["npair/synthetic_share"] == pytest.approx(1 - shares["npair/winner_0_1"])


def test_the_share_of_synthetic_winners_is_that_of_the_log():
    _, metrics = evaluate({"name": "npair", "synthesis": "symmetric"})
    loss = functools.partial(losses.npair_loss, synthesis=synthesis.symmetric, with_winners=True)
    _, winners = jax.jit(loss)(*BATCH)
    assert float(losses.synthetic_share(winners)) == float(metrics["npair/synthetic_share"])
    assert float(losses.synthetic_share(winners)) == pytest.approx(1 - float(winners[0, 1]))


def test_own_losses_and_syntheses_are_named_in_a_config(monkeypatch):
    def halfway(anchor, positive, *, at=0.5):
        return synthesis.with_originals(jnp.tile(jnp.array([1 - at, at]), (len(anchor), 1, 1)))

    # test_contract.py checks the contract. Here it would take long.
    monkeypatch.setattr(losses.registry.contract, "check", lambda name, function: None)
    monkeypatch.setattr(losses.registry, "LOSSES", losses.LOSSES.copy())
    monkeypatch.setattr(synthesis.registry, "SYNTHESES", synthesis.SYNTHESES.copy())
    monkeypatch.setattr(losses.registry, "SYNTHESES", synthesis.registry.SYNTHESES)
    losses.register("sharp_npair", functools.partial(losses.npair_loss, scale=4.0))
    synthesis.register("halfway", halfway)
    spec = {"name": "sharp_npair", "synthesis": {"name": "halfway", "at": 0.3}}
    value, metrics = evaluate(spec)
    loss = functools.partial(losses.npair_loss, scale=4.0, synthesis=functools.partial(halfway, at=0.3))
    np.testing.assert_allclose(value, jax.jit(loss)(*BATCH), rtol=1e-6)
    assert "sharp_npair/synthetic_share" in metrics
    with pytest.raises(errors.InputError, match="did you mean 'at'"):
        losses.from_config(({"name": "npair", "synthesis": {"name": "halfway", "att": 0.3}},))


def test_a_synthesis_takes_options():
    spec = {"name": "npair", "synthesis": {"name": "symmetric", "ratio": 3.0}}
    value, _ = evaluate(spec)
    np.testing.assert_allclose(value, RECORDED["small/symm_npair|ratio=3.0|l2_reg=True/loss"], rtol=1e-5)


def test_the_synthesis_of_figures_is_of_points():
    specs = {"name": "cosface", "synthesis": "memvir"}, {"name": "npair", "synthesis": "symmetric"}
    assert losses.find_synthesis(specs).func is synthesis.symmetric
    assert losses.find_synthesis(specs[:1]) is None


def test_two_losses_of_one_name_log_under_two():
    specs = ({"name": "npair", "synthesis": "symmetric"}, {"name": "npair", "synthesis": "interpolated"})
    _, metrics = evaluate(*specs)
    assert {"npair/synthetic_share", "npair_2/synthetic_share"} <= metrics.keys()


def test_a_plain_loss_has_no_metrics():
    _, metrics = evaluate({"name": "triplet", "mining": "semihard"})
    assert metrics == {}


def test_a_batch_loss_gets_pairs_for_a_synthesis_and_a_key_for_its_sample():
    pairs = np.stack(BATCH[:2], axis=1)
    specs = {"name": "supcon", "synthesis": "symmetric"}, {"name": "margin", "mining": "distance_weighted"}
    key = jax.random.key(3)
    value, metrics = jax.jit(losses.from_config(specs))(*BATCH, key=key)

    @jax.jit
    def separate(pairs, labels):
        sampled = losses.margin_loss(pairs, labels, mining="distance_weighted", key=key)
        return losses.supcon_loss(pairs, labels, synthesis=synthesis.symmetric) + sampled

    np.testing.assert_allclose(value, separate(pairs, BATCH[2]), rtol=1e-5)
    assert sum(x for name, x in metrics.items() if "winner" in name) == pytest.approx(1)


def test_no_two_random_losses_of_a_step_have_the_same_key():
    key = jax.random.key(3)
    spec = {"name": "supcon", "synthesis": "simix"}

    def value(*specs):
        return float(jax.jit(losses.from_config(specs))(*BATCH, key=key)[0])

    once = value(spec)
    assert value(spec, spec) != pytest.approx(2 * once, rel=1e-6)
    assert value({"name": "npair"}, spec) == pytest.approx(value({"name": "npair"}) + once, rel=1e-6)
    # The first loss folds the numbers of its rows into its key.
    mixed = {"name": "contrastive", "synthesis": "metrix"}
    second = value(spec, mixed) - once
    keys = [jax.random.fold_in(key, row) for row in range(2 * len(BATCH[2]))]
    of_rows = [float(losses.from_config([mixed])(*BATCH, key=key)[0]) for key in keys]
    assert not np.isclose(second, of_rows, rtol=1e-5).any()


def test_what_a_loss_keeps_is_named_when_it_is_missing():
    for spec, missing in ({"name": "cosface"}, "proxies"), ({"name": "contrastive", "queue": 8}, "queues"):
        with pytest.raises(errors.InputError, match=rf"needs {missing}\['{spec['name']}'\].*create_{missing}"):
            losses.from_config([spec])(*BATCH)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "n_pair"}, "did you mean 'npair'"),
        ({"name": "npair", "synthesis": "symetric"}, "did you mean 'symmetric'"),
        (
            {"name": "npair", "synthesis": {"name": "symmetric", "ratoi": 3.0}},
            "'symmetric' has no option 'ratoi'.*'ratio'",
        ),
        ({"name": "npair", "scal": 2.0}, "did you mean 'scale'"),
        ({"name": "npair", "synthesys": "symmetric"}, "did you mean 'synthesis'"),
        ({"name": "npair", "weigth": 2.0}, "did you mean 'weight'"),
        ({"name": "npair", "weight": -1.0}, "weight"),
        ({"name": "npair", "weight": True}, "weight"),
        ({"name": "npair", "axis_name": "x"}, "no option 'axis_name'"),
        ({"name": "triplet", "mining": "semi-hard"}, "mining must be all, semihard or hard"),
        ({"name": "triplet", "margin": -0.5}, "margin must be"),
        ({"name": "angular", "degrees": 120.0}, "degrees must be between 0 and 90"),
        ({"name": "npair", "synthesis": {"name": "interpolated", "num": 0}}, "num must be"),
        ({"name": "npair", "block_size": 0}, "block_size"),
        ({"name": "npair", "synthesis": "simix"}, "SiMix .* goes with the batch losses"),
        ({"name": "supcon", "synthesis": "metrix"}, "Metrix .* contrastive_loss and multi_similarity_loss"),
        ({"name": "supcon", "synthesis": "symmetric", "queue": 4}, "a queue holds images, not pairs"),
        ({"name": "npair", "scale": "16"}, "scale of 'npair' must be a number"),
        ({"name": "margin", "mining": "hard"}, "mining must be all or distance_weighted"),
        ({"name": "margin", "key": 3}, "no option 'key'"),
        ({"name": "supcon", "temperatures": 0.2}, "did you mean 'temperature'"),
        ({"name": "supcon", "positives": None}, "no option 'positives'"),
        ({"name": "multi_similarity", "alpha": 0.0}, "alpha must be"),
        ({"name": "recall_at_k", "ks": (1, "2")}, "ks of 'recall_at_k' must be a tuple of integers"),
        ({"synthesis": "symmetric"}, "has no name"),
        ("npair", "must be a tuple of mappings"),
    ],
)
def test_wrong_loss_configs_are_named(spec, message):
    with pytest.raises(errors.InputError, match=message):
        losses.from_config((spec,))


def test_every_row_of_the_papers_tables_has_a_config():
    rows = ("triplet", "triplet_semihard", "npair", "angular", "lifted")
    for name in rows:
        plain, symm = (importlib.import_module(f"configs.car_{x}").get_config() for x in (name, f"symm_{name}"))
        assert not any(spec.get("synthesis") for spec in plain.losses)
        assert all(spec["synthesis"] == "symmetric" for spec in symm.losses)
        without = tuple({k: v for k, v in spec.items() if k != "synthesis"} for spec in symm.losses)
        assert [spec["name"] for spec in without] == [spec["name"] for spec in plain.losses]
        for config in (plain, symm):
            value, _ = evaluate(*config.losses)
            assert np.isfinite(value)
    assert len([p for p in Path("configs").glob("car_*.py") if "effnet" not in p.name]) == 2 * len(rows)
