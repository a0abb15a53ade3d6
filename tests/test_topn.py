"""Top-N, similar rows, fold-in and explanations against brute force and the training solves."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe import recommend as recommending
from mfpipe import topn
from mfpipe.errors import ParameterError, StoreError
from mfpipe.executors import executor
from mfpipe.explain import explain, explain_row
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.folding import fold_in, fold_in_rows
from mfpipe.models import ALS, MODELS, BiasedALS, FactorModel, LassoMF
from mfpipe.models.base import Factors
from mfpipe.recommend import DAMPING, Recommender, Rules, write_all
from mfpipe.similar import Similar

OPTIONS = {"max_iter": 3, "tol": 0, "rank": 4}
FACTOR_MODELS = [
    ALS(**OPTIONS),
    ALS(regularization=1e-4, weighting="uniform", dtype="float64", **OPTIONS),
    ALS(nonnegative=True, **OPTIONS),
    BiasedALS(dtype="float64", **OPTIONS),
    BiasedALS(block_order="separate", bias_regularization=0.1, dtype="float64", **OPTIONS),
    LassoMF(dtype="float64", **OPTIONS),
    LassoMF(l1_ratio=0.4, nonnegative=True, **OPTIONS),
]
EVERY_MODEL = [
    *FACTOR_MODELS,
    *(MODELS[name]() for name in MODELS if not issubclass(MODELS[name], FactorModel)),
]


def label(model):
    return "-".join([model.name, *(str(value) for value in model.params.values() if isinstance(value, str))])


@pytest.fixture(scope="module")
def fitted_to(small):
    """A model fitted to the small ratings, once for all tests."""
    made = {}

    def fitted_to(model):
        if model not in made:
            with executor(small, model.storage, "serial") as where:
                made[model] = FittedModel.of(fit(model, small, where), small)
        return made[model]

    return fitted_to


def best_by_brute_force(fitted, user, n, may=None, seen=()):
    """The n best items of one user: predict all, sort by score and then by row."""
    items = np.arange(len(fitted.items), dtype=np.int32)
    scores = fitted.model.predict(fitted.factors, np.full(len(items), user, np.int32), items, fitted.baseline)
    keep = [i for i in items if i not in seen and (may is None or may[i])]
    keep.sort(key=lambda i: (-scores[i], i))
    return keep[:n], scores[keep[:n]]


@pytest.mark.parametrize("model", EVERY_MODEL, ids=label)
@pytest.mark.parametrize("min_support", [0, 8])
def test_the_best_items_are_those_of_brute_force_in_any_block(
    fitted_to, small, model, min_support, monkeypatch
):
    fitted = fitted_to(model)
    for block in (1, 7, 1 << 21):
        monkeypatch.setattr(topn, "BLOCK_SCORES", block * len(fitted.items))
        found = Recommender(fitted, 5, Rules(min_support=min_support)).for_users(fitted.users.texts)
        for user in range(len(fitted.users)):
            seen = set(small.item[small.user == user])
            items, scores = best_by_brute_force(fitted, user, 5, fitted.item_counts >= min_support, seen)
            mine = found.query == user
            assert found.item[mine].tolist() == items
            assert_array_equal(found.score[mine], scores)
            assert found.rank[mine].tolist() == list(range(1, len(items) + 1))


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 200),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([1.0, 1e-20, 1e15]),
    st.integers(0, 10**6),
)
def test_candidates_hold_the_best_however_close_the_scores(n_items, rank, n, dtype, scale, seed):
    rng = np.random.default_rng(seed)
    right = (rng.integers(-2, 3, (n_items, rank)) * scale).astype(dtype)  # many ties
    right += (right * rng.normal(size=right.shape) * np.finfo(dtype).eps).astype(dtype)  # and near ones
    left = rng.integers(-2, 3, (3, rank)).astype(dtype)
    nothing = np.zeros(4, np.int64), np.empty(0, np.int32)
    near = topn.Search(right).candidates(left, np.zeros(3), n, *nothing)
    exact = left.astype(np.longdouble) @ right.T.astype(np.longdouble)
    for query in range(3):
        best = np.lexsort((np.arange(n_items), -exact[query]))[:n]
        assert set(best) <= set(near.row[near.query == query])


def test_seen_items_can_be_included_and_more_be_left_out(fitted_to, small):
    fitted = fitted_to(FACTOR_MODELS[0])
    user = int(small.user[0])
    one = fitted.users.texts.slice(user, 1)
    found = Recommender(fitted, 30, Rules(include_seen=True)).for_users(one)
    assert_array_equal(np.sort(found.item), np.arange(len(fitted.items)))
    best = Recommender(fitted, 3).for_users(one).item
    more = recommending.rated.pairs_block(np.array([user, -1]), best[[0, 1]], len(fitted.users))
    assert_array_equal(Recommender(fitted, 2, seen=more).for_users(one).item, best[1:])


def test_a_version_without_ratings_says_what_to_do(fitted_to):
    fitted = fitted_to(FACTOR_MODELS[0])
    bare = dataclasses.replace(fitted, rated=None)
    with pytest.raises(ParameterError, match="give them with --seen FILE"):
        Recommender(bare)
    assert len(Recommender(bare, 3, Rules(include_seen=True)).for_users(fitted.users.texts[:2]).item) == 6


def test_allow_and_deny(fitted_to):
    fitted = fitted_to(FACTOR_MODELS[3])
    allow = pa.concat_arrays([fitted.items.texts.take(pa.array([7, 2, 9, 4])), pa.array(["unknown"])])
    deny = fitted.items.texts.take(pa.array([2]))
    rules = Rules(include_seen=True, allow=allow, deny=deny)
    found = Recommender(fitted, 10, rules).for_users(fitted.users.texts)
    assert set(found.item) == {4, 7, 9}
    assert (np.bincount(found.query) == 3).all()
    with pytest.raises(ParameterError, match="no item to recommend"):
        Recommender(fitted, 10, Rules(allow=deny, deny=deny))


def test_cold_users_get_biases_or_damped_means_and_are_marked(fitted_to, small):
    strangers = pa.array(["nobody", small.users[0], "007"])
    plain = fitted_to(FACTOR_MODELS[0])
    found = Recommender(plain, 3).for_users(strangers)
    assert recommending.SOURCES[found.source].tolist() == ["popularity", "known", "popularity"]
    n = np.bincount(small.item)
    damped = (np.bincount(small.item, small.rating) + DAMPING * small.rating.mean()) / (n + DAMPING)
    expected = np.lexsort((np.arange(len(n)), -damped))[:3]
    for query in (0, 2):
        assert_array_equal(found.item[found.query == query], expected)
        assert_allclose(found.score[found.query == query], damped[expected], rtol=1e-14)
    biased = fitted_to(FACTOR_MODELS[3])
    found = Recommender(biased, 3).for_users(strangers)
    assert recommending.SOURCES[found.source].tolist() == ["biases", "known", "biases"]
    predicted, _ = biased.predict(pa.array(["nobody"] * 3), biased.items.texts.take(pa.array(found.item[:3])))
    assert_array_equal(found.score[:3], predicted)


def test_diversity_follows_its_formula(fitted_to):
    fitted = fitted_to(FACTOR_MODELS[1])
    d, n = 0.6, 5
    found = Recommender(fitted, n, Rules(include_seen=True, diversity=d)).for_users(fitted.users.texts)
    q = fitted.factors.item / np.linalg.norm(fitted.factors.item, axis=1)[:, None]
    for user in range(len(fitted.users)):
        pool, scores = best_by_brute_force(fitted, user, 10 * n)
        relevance = (scores - scores.min()) / (scores.max() - scores.min())
        chosen = []
        while len(chosen) < n:
            likeness = [max((q[i] @ q[pool[c]] for c in chosen), default=0) for i in pool]
            value = (1 - d) * relevance - d * np.array(likeness)
            value[chosen] = -np.inf
            chosen.append(int(np.argmax(value)))
        mine = found.query == user
        assert found.item[mine].tolist() == [pool[c] for c in chosen]
        assert_array_equal(found.score[mine], scores[chosen])
    alone = Recommender(fitted, n, Rules(include_seen=True)).for_users(fitted.users.texts)
    assert (alone.item != found.item).any()
    with pytest.raises(ParameterError, match="user-mean has no factors"):
        Recommender(fitted_to(MODELS["user-mean"]()), n, Rules(diversity=0.1))


def test_all_users_go_to_a_file_in_blocks_and_waves(fitted_to, tmp_path, monkeypatch):
    fitted = fitted_to(FACTOR_MODELS[3])
    monkeypatch.setattr(topn, "BLOCK_SCORES", 3 * len(fitted.items))
    monkeypatch.setattr(recommending, "WAVE", 2)
    recommender = Recommender(fitted, 4)
    expected = recommender.table(fitted.users.texts, recommender.for_users(fitted.users.texts))
    assert write_all(recommender, tmp_path / "all.parquet") == len(expected)
    assert pq.read_table(tmp_path / "all.parquet").equals(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


def test_all_users_on_a_cluster_are_the_same_file(fitted_to, tmp_path, client):
    recommender = Recommender(fitted_to(FACTOR_MODELS[3]), 4)
    write_all(recommender, tmp_path / "here.parquet", "serial")
    write_all(recommender, tmp_path / "there.parquet", client.scheduler.address)
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()


def test_a_file_that_cannot_be_written_leaves_the_old_one(fitted_to, tmp_path, monkeypatch):
    recommender, out = Recommender(fitted_to(FACTOR_MODELS[0])), tmp_path / "all.parquet"
    out.write_text("the old one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recommending._Output, "write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_all(recommender, out)
    assert out.read_text() == "the old one"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(StoreError, match="cannot be written"):
        write_all(recommender, tmp_path / "missing" / "all.parquet")


@pytest.mark.parametrize("side", ["item", "user"])
def test_similar_rows_have_the_largest_cosines(fitted_to, side):
    fitted = fitted_to(FACTOR_MODELS[3])
    rows = getattr(fitted.factors, side)[:, 1:]
    unit = rows / np.linalg.norm(rows, axis=1)[:, None]
    found = Similar(fitted, side).best(np.arange(len(rows)), 4)
    for row in range(len(rows)):
        cosines = unit @ unit[row]
        cosines[row] = -2
        expected = np.argsort(-cosines, kind="stable")[:4]
        assert_array_equal(found.row[found.query == row], expected)
        assert_allclose(found.score[found.query == row], cosines[expected], atol=1e-14)


def test_nothing_is_similar_to_zeros_or_to_the_unknown(fitted_to):
    fitted = fitted_to(FACTOR_MODELS[0])
    items = fitted.factors.item.copy()
    items[3] = 0
    fitted = dataclasses.replace(fitted, factors=Factors(fitted.factors.user, items))
    with pytest.raises(ParameterError, match=f"item {fitted.items[3]!r} has only zero factors"):
        Similar(fitted).best(np.array([1, 3]))
    assert 3 in Similar(fitted).best(np.array([1]), 30).row
    with pytest.raises(ParameterError, match="item 'x' was not trained on"):
        Similar(fitted).rows_of(["x"])
    with pytest.raises(ParameterError, match="item-mean has no factors"):
        Similar(fitted_to(MODELS["item-mean"]()))


@pytest.mark.parametrize("model", FACTOR_MODELS, ids=label)
@pytest.mark.parametrize("side", ["user", "item"])
def test_fold_in_is_the_training_half_step_to_the_last_bit(small, model, side):
    with executor(small, model.storage, "serial") as where:
        fitted = FittedModel.of(fit(model, small, where), small)
        mine, other = (getattr(fitted.factors, name) for name in (side, "item" if side == "user" else "user"))
        expected = where.half_step(model, side, mine, other).rows
    folded = fold_in(fitted, small, side)
    assert_array_equal(folded.rows, expected)
    assert folded.left_out == 0
    if side == "user" and not model.biased and not model.warm_starts:
        assert_array_equal(folded.rows, fitted.factors.user)  # the last half-step of training itself


@pytest.mark.parametrize("model", FACTOR_MODELS, ids=label)
def test_new_users_are_stationary_and_unknown_items_left_out(fitted_to, model):
    fitted = fitted_to(model)
    ids = pa.array(["new", "newer", "without"])
    mine, items = np.array([0, 0, 0, 1, 1, 2]), np.array([3, 1, -1, 2, 9, -1], np.int32)
    folded = fold_in_rows(fitted, ids, mine, items, np.array([5.0, 1, 3, 2, 4, 4]))
    assert folded.left_out == 2
    if not model.separate:  # there the bias is solved for the factors as they were
        distance = model.stationarity("user", folded.block, folded.rows, fitted.factors.item, fitted.totals)
        assert distance.max() < (1e-10 if model.dtype == "float64" else 1e-4)
    assert not folded.rows[2].any()
    found = Recommender(fitted, 30).for_folded(folded)
    fallback = "biases" if model.biased else "popularity"
    assert recommending.SOURCES[found.source].tolist() == ["folded in", "folded in", fallback]
    assert set(found.item[found.query == 0]) == set(range(30)) - {1, 3}
    assert set(found.item[found.query == 2]) == set(range(30))


@pytest.mark.parametrize("model", FACTOR_MODELS, ids=label)
def test_explanations_sum_to_the_prediction(fitted_to, small, model):
    fitted = fitted_to(model)
    for user in range(len(fitted.users)):
        for item in range(0, len(fitted.items), 3):
            found = explain(fitted, user, item)
            at = np.array([user], np.int32), np.array([item], np.int32)
            assert found.prediction == model.predict(fitted.factors, *at, fitted.baseline)[0]
            total = sum(found.parts.values()) + found.share.sum()
            assert abs(found.prediction - total) <= (1e-9 if model.dtype == "float64" else 1e-3)
            assert set(found.item) == set(small.item[small.user == user])


@pytest.mark.parametrize("model", [FACTOR_MODELS[1], FACTOR_MODELS[3], FACTOR_MODELS[5]], ids=label)
def test_a_weight_is_how_far_the_prediction_moves_with_the_rating(fitted_to, model):
    fitted = fitted_to(model)
    ids, mine = pa.array(["new"]), np.zeros(6, np.int64)
    items, rating = np.array([2, 4, 7, 9, 12, 20], np.int32), np.array([5.0, 1, 3, 2, 4, 4])
    folded = fold_in_rows(fitted, ids, mine, items, rating)
    found = explain_row(fitted, folded.rows[0], folded.block, 11)
    moved = fold_in_rows(fitted, ids, mine, items, rating + 1e-5 * (items == 7))
    after = explain_row(fitted, moved.rows[0], moved.block, 11)
    bias = moved.rows[0, 0] - folded.rows[0, 0] if model.biased else 0.0
    weight = found.weight[found.item == 7][0]
    # A free bias moves too, and with it every target.
    expected = weight * 1e-5 + bias * (1 - found.weight.sum())
    assert after.prediction - found.prediction == pytest.approx(expected, abs=1e-12)


def test_explanations_of_cold_pairs_are_their_fallbacks(fitted_to):
    biased, plain = fitted_to(FACTOR_MODELS[3]), fitted_to(FACTOR_MODELS[1])
    assert explain(biased, 2, -1).parts.keys() == {"global mean", "user bias"}
    assert abs(explain(biased, -1, 2).unexplained) < 1e-14
    assert explain(plain, -1, 2).parts == {"fallback": plain.baseline.item_means[2]}
    with pytest.raises(ParameterError, match="user-mean has no factors"):
        explain(fitted_to(MODELS["user-mean"]()), 0, 0)
