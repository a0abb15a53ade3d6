"""The publishing gate and the comparison of data shapes, on numbers small enough to check by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfpipe.drift import Limits, too_far
from mfpipe.errors import ParameterError
from mfpipe.gate import GateRules, Judged, judge, paired_bootstrap
from mfpipe.models.base import Baseline

RULES = GateRules(draws=400)


def rows(n_users=50, each=20, seed=0):
    rng = np.random.default_rng(seed)
    users = pa.array(np.repeat([f"u{k}" for k in range(n_users)], each))
    return users, rng.integers(1, 6, n_users * each).astype(float), rng


def system(rating, error, seed, cold=0):
    warm = np.arange(len(rating)) >= cold
    return Judged(rating + np.random.default_rng(seed).normal(0, error, len(rating)), warm)


def verdict(challenger, average=1.3, champion=0.9, cold=(0, 0), **options):
    users, rating, _ = rows()
    return judge(
        users,
        rating,
        system(rating, challenger, 1, cold[0]),
        system(rating, average, 2),
        system(rating, champion, 3, cold[1]) if champion else None,
        RULES,
        **options,
    )


def failed(found):
    return [check["check"] for check in found["checks"] if not check["passed"]]


def test_better_passes_and_worse_is_refused():
    assert verdict(0.85)["passed"]
    found = verdict(1.1)
    assert failed(found) == ["not worse than the champion"]
    assert found["difference"]["interval"][0] > 0
    assert found["difference"]["margin"] == pytest.approx(0.01 * found["systems"]["champion"]["rmse"])


def test_a_first_version_is_gated_by_the_average_alone():
    assert verdict(0.95, champion=None)["passed"]
    assert failed(verdict(1.5, champion=None)) == ["better than the user-item average"]


def test_the_user_item_average_itself_can_be_retrained():
    assert failed(verdict(1.5, champion=None, is_average=True)) == []


def test_collapse_and_lower_coverage_are_refused():
    assert failed(verdict(0.85, collapsed=True)) == ["not collapsed"]
    assert failed(verdict(0.85, cold=(2, 1))) == ["coverage not lower"]
    assert failed(verdict(0.85, cold=(1, 2))) == []


def test_predictions_that_are_not_finite_are_refused_and_the_record_is_json():
    import json

    users, rating, _ = rows()
    bad = system(rating, 0.8, 1)
    bad.predicted[3] = np.nan
    found = judge(users, rating, bad, system(rating, 1, 2), system(rating, 0.9, 3), RULES)
    assert failed(found) == ["finite"]
    json.dumps(found, allow_nan=False)


def test_the_interval_is_that_of_resampled_users_with_all_their_rows():
    """Against the plain definition: concatenate the rows of the drawn users, and take two RMSEs."""
    users, rating, rng = rows(12, 5)
    before, after = rng.random(len(rating)), rng.random(len(rating))
    draws = np.random.default_rng(RULES.seed)
    expected = []
    for _ in range(RULES.draws):
        drawn = draws.integers(0, 12, 12)
        at = np.concatenate([np.arange(5 * u, 5 * u + 5) for u in drawn])
        expected.append(np.sqrt(after[at].mean()) - np.sqrt(before[at].mean()))
    low, high = paired_bootstrap(users, before, after, RULES)
    assert (low, high) == pytest.approx(np.quantile(expected, (0.025, 0.975)), abs=1e-12)


@given(st.integers(0, 6), st.floats(0.5, 1.5))
@settings(max_examples=20, deadline=None)
def test_the_same_rows_give_the_same_interval_around_their_difference(seed, error):
    users, rating, rng = rows(seed=seed)
    before, after = (rng.normal(0, e, len(rating)) ** 2 for e in (1.0, error))
    low, high = paired_bootstrap(users, before, after, RULES)
    assert (low, high) == paired_bootstrap(users, before, after, RULES)
    assert low < np.sqrt(after.mean()) - np.sqrt(before.mean()) < high


def test_equal_systems_differ_by_nothing():
    users, _, rng = rows()
    squares = rng.random(len(users))
    assert paired_bootstrap(users, squares, squares, RULES) == (0.0, 0.0)


def test_the_average_is_that_of_known_means():
    from mfpipe.gate import user_item_average

    baseline = Baseline(3.0, np.array([4.0, 2.0]), np.array([5.0]))
    found = user_item_average(baseline, np.array([0, 1, -1, -1]), np.array([0, -1, 0, -1]))
    assert found.predicted.tolist() == [4.5, 2.5, 4.0, 3.0]
    assert found.warm.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "wrong", [{"margin": -0.1}, {"margin": float("nan")}, {"confidence": 1}, {"draws": 0}]
)
def test_gate_rules_say_what_they_must_be(wrong):
    with pytest.raises(ParameterError, match=f"--{next(iter(wrong))}"):
        GateRules(**wrong)


NEAR = {
    "ratings": 1.0, "users": 1.0, "items": 1.0, "mean": 0.0, "spread": 1.0,
    "unseen_users": 0.0, "unseen_items": 0.0, "days_back": -1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [
        ("ratings", 0.4, "ratings: 0.4 times"),
        ("items", 11.0, "items: 11 times"),
        ("mean", -0.3, "mean rating: -0.3"),
        ("spread", 1.6, "standard deviation: 1.6"),
        ("spread", 0.6, "standard deviation: 0.6"),
        ("unseen_users", 0.6, "unseen users: 60.0 %"),
        ("unseen_items", 0.51, "unseen items: 51.0 %"),
        ("days_back", 2.0, "latest rating: 2 days older"),
    ],
)
def test_what_is_too_far_is_named_with_figure_and_limit(figure, value, said):
    assert too_far(NEAR, Limits()) == []
    (line,) = too_far(NEAR | {figure: value}, Limits())
    assert said in line
    wide = Limits(0, 100, 9, 9, 1, 1, 99)
    assert too_far(NEAR | {figure: value}, wide) == []


def test_what_an_older_manifest_does_not_tell_is_not_judged():
    assert too_far(NEAR | dict.fromkeys(("mean", "spread", "days_back")), Limits()) == []


@pytest.mark.parametrize("text", ["mean", "mean=x", "means=1", "mean=-1", "mean=nan", "spread=0.5"])
def test_limits_are_refused_by_name(text):
    with pytest.raises(ParameterError, match="--limit"):
        Limits.parse([text])
    assert Limits.parse(["mean=1", "most=3"]) == Limits(mean=1.0, most=3.0)
