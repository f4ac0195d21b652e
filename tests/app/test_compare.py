"""The comparison: what it runs, what it does not run again, and its statistics."""

import json
import math

import ml_collections
import numpy as np
import pytest
import scipy.stats

from configs.compare import glyphs
from symm_jax import errors
from symm_jax.app import compare
from symm_jax.data import splits
from symm_jax.run import metric_log


@pytest.fixture
def comparison(tiny):
    tiny.batch_size, tiny.num_steps, tiny.checkpoint_every, tiny.clustering = 4, 2, 1, False
    other = tiny.copy_and_resolve_references()
    other.losses = ({"name": "npair", "l2_normalize": True, "scale": 8.0},)
    methods = {"symm": tiny, "plain": other}
    return ml_collections.ConfigDict(
        {"methods": methods, "baseline": "plain", "seeds": (3, 4), "validation_classes": (0, 2)}
    )


def test_a_comparison_runs_once_and_is_summarised(comparison, tmp_path, one_device, capsys):
    comparison.methods.plain.num_steps, comparison.seeds, comparison.validation_classes = 1, (3,), (2,)
    compare.compare(comparison, tmp_path / "all")
    folders = {str(p.parent.relative_to(tmp_path / "all")) for p in (tmp_path / "all").rglob("finished")}
    assert folders == {"symm/validation2/seed3", "plain/validation2/seed3"}
    rows = json.loads((tmp_path / "all/comparison.json").read_text())
    ways = {(row["validation_classes"], row["chosen"]) for row in rows}
    assert ways == {(2, "validation"), (2, "test"), (2, "last")}
    assert {row["metric"] for row in rows} == {"recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision"}
    assert (tmp_path / "all/comparison.png").read_bytes().startswith(b"\x89PNG")
    first = capsys.readouterr()
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "all").rglob("metrics.jsonl")}
    compare.compare(comparison, tmp_path / "all")
    second = capsys.readouterr()
    assert "train     " in first.out and "train     " not in second.out
    assert {p: p.stat().st_mtime_ns for p in trained} == trained
    assert "one seed" in first.out and "nan" not in first.out
    assert first.out[first.out.index("| classes") :] == second.out[second.out.index("| classes") :]


def test_differences_are_paired_by_seed(comparison, tmp_path, one_device):
    recalls = {"plain": (0.50, 0.70), "symm": (0.56, 0.74)}
    runs = compare.plan(comparison, tmp_path)
    for run in runs:
        with metric_log.MetricLog(run.workdir, "eval") as log:
            log.write(1, {"recall@1": recalls[run.method][run.seed - 3], "validation/recall@1": 0.9, "map@r": 0.1})
            log.write(2, {"recall@1": 0.1, "validation/recall@1": 0.8, "map@r": 0.3})
            log.write(3, {"recall@1": 1.0, "validation/recall@1": 1.0, "map@r": 1.0})  # past num_steps
    rows = compare.summarise(comparison, runs)
    chosen = [r for r in rows if (r["validation_classes"], r["chosen"], r["metric"]) == (2, "validation", "recall@1")]
    plain, symm = chosen
    assert (symm["method"], plain["method"]) == ("symm", "plain")
    assert symm["values"] == [0.56, 0.74] and math.isnan(plain["difference"])
    assert symm["mean"] == pytest.approx(0.65)
    low, high = scipy.stats.t.interval(0.95, 1, 0.05, scipy.stats.sem([0.06, 0.04]))
    assert (symm["difference"], symm["difference_half"]) == pytest.approx((0.05, (high - low) / 2))
    text = compare.table(rows)
    assert "| 2 | chosen on held-out training classes | symm | 65.00 ± 114.36 (+5.00 ± 12.71) | 10.00 ± 0.00" in text
    assert "| 0 | last checkpoint | plain | 10.00 ± 0.00 | 30.00" in text
    assert "interval of 2 seeds;" in text


def test_a_method_that_cannot_train_on_the_data_is_found_before_the_first_run(comparison, tmp_path, one_device):
    comparison.methods.symm.batch_size = 100
    with pytest.raises(errors.InputError, match=r"config.methods.symm, with 0 classes held out: batch_size: 100"):
        compare.compare(comparison, tmp_path)
    assert not list(tmp_path.rglob("config.json"))


def test_runs_on_other_pictures_are_not_compared(comparison, tmp_path, one_device, monkeypatch):
    comparison.seeds, comparison.validation_classes = (3,), (0,)
    both = comparison.methods
    comparison.methods = ml_collections.ConfigDict({"plain": both.plain})
    compare.compare(comparison, tmp_path)
    load = splits.load_evaluation

    def load_others(*arguments):
        test, *others = load(*arguments)
        return test._replace(labels=np.roll(test.labels, 1)), *others

    monkeypatch.setattr(splits, "load_evaluation", load_others)
    comparison.methods = both
    with pytest.raises(errors.InputError, match=r"not comparable: the test split of .*/plain/.* of .*/symm/.*Restore"):
        compare.compare(comparison, tmp_path)
    assert not (tmp_path / "symm").exists()


def test_seeds_that_only_one_method_has_are_not_paired(comparison, tmp_path, one_device):
    comparison.seeds, comparison.validation_classes = (2, 3, 4, 5), (0,)
    measured = {"plain": {2: 0.5, 3: 0.7, 4: 0.6}, "symm": {3: 0.8, 4: 0.7, 5: 0.1}}
    runs = compare.plan(comparison, tmp_path)
    for run in runs:
        if value := measured[run.method].get(run.seed):
            with metric_log.MetricLog(run.workdir, "eval") as log:
                log.write(1, {"recall@1": value})
    rows = compare.summarise(comparison, runs)
    row = next(r for r in rows if r["method"] == "symm" and r["chosen"] == "last")
    assert (row["seeds"], row["difference"]) == ([3, 4, 5], pytest.approx(0.1))
    plain = [r | {"seeds": r["seeds"][:1]} if r["method"] == "plain" else r for r in rows]
    assert "interval of 1 to 3 seeds, because some were not measured" in compare.table(plain)
    assert compare.summarise(comparison, compare.plan(comparison, tmp_path / "nothing")) == []


def test_each_method_may_have_its_own_baseline(comparison, tmp_path, one_device):
    comparison.methods.a = comparison.methods.other = comparison.methods.plain
    comparison.seeds, comparison.validation_classes = (3,), (0,)
    del comparison.baseline
    comparison.baseline = ml_collections.ConfigDict({"a": "plain", "other": "symm"})
    runs = compare.plan(comparison, tmp_path)
    assert [run.method for run in runs] == ["plain", "a", "symm", "other"]
    for value, run in enumerate(runs):
        with metric_log.MetricLog(run.workdir, "eval") as log:
            log.write(1, {"recall@1": value / 10})
    rows = compare.summarise(comparison, runs)
    found = {row["method"]: row["difference"] for row in rows if row["chosen"] == "last"}
    assert found == pytest.approx({"plain": math.nan, "a": 0.1, "symm": math.nan, "other": 0.1}, nan_ok=True)
    comparison.baseline.a = "plane"
    with pytest.raises(errors.InputError, match="did you mean 'plain'"):
        compare.plan(comparison, tmp_path)


def test_one_seed_has_no_interval():
    mean, half = compare.interval([0.25])
    assert mean == 0.25 and math.isnan(half)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("baseline", "plane", "did you mean 'plain'"),
        ("seeds", (), "config.seeds = .*at least one"),
        ("seeds", (3, 3), "none twice"),
        ("validation_classes", (), "config.validation_classes"),
        ("validation_classes", (1,), "config.data.validation_classes must be 0, or 2 and more"),
    ],
)
def test_mistakes_are_found_before_the_first_run(comparison, tmp_path, one_device, field, value, message):
    comparison[field] = value
    with pytest.raises(errors.InputError, match=message):
        compare.compare(comparison, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_methods_are_measured_alike(comparison, tmp_path, one_device):
    comparison.methods.symm.recall_ks = (2,)
    with pytest.raises(errors.InputError, match="same recall_ks"):
        compare.compare(comparison, tmp_path / "all")


def test_the_shipped_comparison_is_valid(tmp_path, one_device):
    runs = compare.plan(glyphs.get_config(), tmp_path)
    assert len(runs) == 20
    assert len({run.workdir for run in runs}) == 20
    differing = {"losses": (runs[0].config.losses, runs[1].config.losses)}
    assert differing["losses"][0] != differing["losses"][1]
    assert np.unique([run.seed for run in runs]).tolist() == [2, 3, 4, 5, 6]
