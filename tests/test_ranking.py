"""Ranking metrics against independent implementations."""

import math

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from sklearn.metrics import ndcg_score

from mfpipe.errors import ParameterError
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS, BiasedALS, ItemMean
from mfpipe.ranking import ranking
from mfpipe.ratings import TestRatings


def fitted_to(model, ratings):
    with executor(ratings, model.storage, "threads") as where:
        return FittedModel.of(fit(model, ratings, where), ratings)


def lists_by_brute_force(fitted, ratings, users, n):
    """Each user's n best items not rated in training, from predictions of all."""
    every = np.arange(len(fitted.items), dtype=np.int32)
    lists = {}
    for user in users:
        row = np.full(len(every), user, np.int32)
        scores = fitted.model.predict(fitted.factors, row, every, fitted.baseline)
        scores[ratings.item[ratings.user == user]] = -np.inf
        order = np.lexsort((every, -scores))
        lists[user] = [int(i) for i in order if scores[i] > -np.inf][:n]
    return lists


def expected(fitted, ratings, test, n, relevant):
    """The definitions in loops over users, NDCG by scikit-learn."""
    trained = set(zip(ratings.user.tolist(), ratings.item.tolist(), strict=True))
    liked: dict[int, set] = {}
    for user, item, rating in zip(test.user.to_pylist(), test.item.to_pylist(), test.rating, strict=True):
        u, i = (
            int(ids.rows(pa.array([text]))[0]) for ids, text in ((fitted.users, user), (fitted.items, item))
        )
        if u >= 0 and rating >= relevant and (u, i) not in trained:
            liked.setdefault(u, set()).add(i if i >= 0 else item)
    lists = lists_by_brute_force(fitted, ratings, liked, n)
    recall, ndcg, mrr = [], [], []
    for user, items in liked.items():
        hits = [item in items for item in lists[user]]
        recall.append(sum(hits) / len(items))
        mrr.append(1 / (1 + hits.index(True)) if any(hits) else 0.0)
        ranked = [float(hit) for hit in hits] + [1.0] * (len(items) - sum(hits))
        ranked += [0.0] * max(0, n + 1 - len(ranked))  # the list, then what it missed
        if sum(hits) < len(items):
            ranked[len(hits) : len(hits)] = [0.0] * (n - len(hits))
        ndcg.append(ndcg_score([ranked], [list(range(len(ranked), 0, -1))], k=n, ignore_ties=True))
    shown = [item for items in lists.values() for item in items]
    counts = np.bincount(ratings.item, minlength=len(fitted.items))
    return {
        "recall": np.mean(recall),
        "ndcg": np.mean(ndcg),
        "mrr": np.mean(mrr),
        "catalogue": len(set(shown)) / len(fitted.items),
        "novelty": np.mean([-math.log2(counts[item] / len(fitted.users)) for item in shown]),
    }


def records(ratings, rng, n):
    users = [*ratings.users.texts.to_pylist(), "stranger"]
    items = [*ratings.items.texts.to_pylist(), "unheard of", "neither"]
    return TestRatings(
        pa.array(rng.choice(users, n)),
        pa.array(rng.choice(items, n)),
        rng.integers(1, 6, n) * 1.0,
        np.arange(n),
    )


@pytest.mark.parametrize("model", [ALS(3, max_iter=2, tol=0), ItemMean()], ids=lambda m: m.name)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_metrics_follow_their_definitions(small, model, n):
    fitted = fitted_to(model, small)
    test = records(small, np.random.default_rng(n), 200)
    found = ranking(fitted, test, n, 4)
    wanted = expected(fitted, small, test, n, 4)
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-12)
    assert found["users_cold"] == 1


def test_nothing_relevant_gives_no_figures(small):
    fitted = fitted_to(ALS(3, max_iter=1), small)
    found = ranking(fitted, records(small, np.random.default_rng(0), 20), 5, 6)
    assert (found["users"], found["recall"], found["novelty"]) == (0, None, None)
    with pytest.raises(ParameterError, match="--relevant nan"):
        ranking(fitted, records(small, np.random.default_rng(0), 20), 5, math.nan)


MODEL = BiasedALS(3, 3e-4, "uniform", dtype="float64", tol=1e-4)


def test_metrics_on_the_homework_data(netflix):
    ratings, test = netflix
    fitted = fitted_to(MODEL, ratings)
    found = ranking(fitted, test, 10)
    wanted = expected(fitted, ratings, test, 10, ratings.rating.mean())
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-9)


def test_metrics_on_the_homework_data_equal_trec_eval(netflix):
    ratings, test = netflix
    fitted = fitted_to(MODEL, ratings)
    found = ranking(fitted, test, 10)
    trained = set(zip(ratings.user.tolist(), ratings.item.tolist(), strict=True))
    users, items = fitted.users.rows(test.user), fitted.items.rows(test.item)
    qrel: dict[str, dict[str, int]] = {}
    for user, item, text, rating in zip(users, items, test.item.to_pylist(), test.rating, strict=True):
        if user >= 0 and rating >= ratings.rating.mean() and (user, item) not in trained:
            qrel.setdefault(str(user), {})[text] = 1
    lists = lists_by_brute_force(fitted, ratings, map(int, qrel), 10)
    run = {
        str(user): {fitted.items[item]: float(10 - k) for k, item in enumerate(shown)}
        for user, shown in lists.items()
    }
    judged = pytrec_eval.RelevanceEvaluator(qrel, {"recall.10", "ndcg_cut.10", "recip_rank"}).evaluate(run)
    assert len(judged) == found["users"]
    for key, name in (("recall", "recall_10"), ("ndcg", "ndcg_cut_10"), ("mrr", "recip_rank")):
        assert found[key] == pytest.approx(np.mean([one[name] for one in judged.values()]), abs=1e-9)
