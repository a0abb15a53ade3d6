"""Ranking quality: what a user's list of n items has of those they went on to like, over all items.

Every list is the one `recommend` gives: the n best of all items of the model that the user did not rate in
training, none of them sampled. An item is relevant to a user if a test record rates it at `relevant` or more
(by default the mean of the training ratings); pairs that were also trained on do not count. The figures are
means over users of the model with a relevant item; users who are not in the model are counted apart.

With h_k = 1 where the k-th of the list is relevant, and R the number of relevant items, those that are not
in the model included:

    recall@n = Σ_k h_k / R
    NDCG@n = Σ_k h_k / log₂(k + 1)  /  Σ_{k ≤ min(n, R)} 1 / log₂(k + 1)
    MRR@n = 1 / (the first k with h_k = 1), 0 if there is none

`catalogue` is the share of the model's items that are in any of these lists, and `novelty` the mean over all
places in the lists of −log₂(share of the model's users who rated the item).

References
----------
Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002. Zhou et al.:
Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 107(10), 2010 (novelty).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mfpipe.arrow import to_arrow, to_numpy
from mfpipe.bootstrap import mean_intervals
from mfpipe.errors import ParameterError
from mfpipe.fitted import FittedModel
from mfpipe.rated import require, select
from mfpipe.ratings import TestRatings
from mfpipe.recommend import Recommender


def ranking(
    fitted: FittedModel,
    test: TestRatings,
    n: int = 10,
    relevant: float | None = None,
    most_users: int | None = None,
) -> dict:
    """Ranking metrics of a model on test records; see the module.

    Parameters
    ----------
    fitted : FittedModel
        With its training ratings.
    test : TestRatings
    n : int
        Length of the lists.
    relevant : float, optional
        The least rating of a relevant item.
    most_users : int, optional
        Judge no more users than this, drawn at random with a fixed seed; all by default.

    Returns
    -------
    dict
        `n`, `relevant`, `users` (that the means are over), `drawn_from` (how many they were drawn from; None
        if all were judged), `users_cold`, `recall`, `ndcg`, `mrr`, their `intervals` (see
        `mfpipe.bootstrap`), `catalogue` and `novelty` (bits); a mean over no users is None.

    Raises
    ------
    ParameterError
        `n` is out of range, or the training ratings were not kept.
    """
    threshold = fitted.baseline.global_mean if relevant is None else float(relevant)
    if not np.isfinite(threshold):
        raise ParameterError(f"--relevant {relevant}: must be a finite number")
    recommender = Recommender(fitted, n)
    pairs, cold, drawn_from = relevant_pairs(fitted, test, threshold, most_users)
    users, counts = np.unique(pairs[:, 0], return_counts=True)
    hits, lists = np.zeros((len(users), n), dtype=bool), []
    step = recommender.top.search.block_rows()
    for begin in range(0, len(users), step):
        block = users[begin : begin + step]
        found = recommender.known(block)
        lists.append(found.row)
        is_hit = _are_among(block[found.query], found.row, pairs, len(fitted.items))
        hits[begin + found.query, found.rank - 1] = is_hit
    about = {"n": n, "relevant": threshold, "users": len(users), "drawn_from": drawn_from, "users_cold": cold}
    figures = _means(hits, counts)
    return about | figures | _of_lists(fitted, np.concatenate(lists) if lists else np.empty(0, np.int32))


def relevant_pairs(
    fitted: FittedModel, test: TestRatings, threshold: float, most_users: int | None = None
) -> tuple[np.ndarray, int, int | None]:
    """Distinct (user row, item) of relevant records, how many unknown users have any, and, where only
    `most_users` of the known ones were drawn, how many these are.

    An item that is not in the model is numbered from the number of the model's items on.
    """
    good = test.rating >= threshold
    users = fitted.users.rows(test.user)
    items = fitted.items.rows(test.item).astype(np.int64)
    unknown = np.flatnonzero(items < 0)
    texts = test.item.take(to_arrow(unknown)).dictionary_encode()
    items[unknown] = len(fitted.items) + to_numpy(texts.indices)
    strangers = len(set(test.user.filter(to_arrow(good & (users < 0))).to_pylist()))
    keep = good & (users >= 0)
    known = np.unique(users[keep])
    drawn_from = None
    if most_users is not None and len(known) > most_users:
        drawn_from = len(known)
        known = np.sort(np.random.default_rng(0).choice(known, most_users, replace=False))
        keep &= np.isin(users, known)
    width = max(len(fitted.items), int(items.max(initial=0)) + 1)
    pairs = np.unique(users[keep].astype(np.int64) * width + items[keep])
    indptr, trained = select(require(fitted.rated, "judging lists"), known)
    of_training = np.repeat(known.astype(np.int64), np.diff(indptr)) * width + trained
    pairs = pairs[~np.isin(pairs, of_training)]
    return np.column_stack((pairs // width, pairs % width)), strangers, drawn_from


def _are_among(users, items, pairs, n_items: int) -> np.ndarray:
    width = max(n_items, int(pairs[:, 1].max(initial=0)) + 1)
    return np.isin(np.asarray(users, np.int64) * width + items, pairs[:, 0] * width + pairs[:, 1])


def _means(hits: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Means over users of the three metrics, with intervals; `hits` is bool, shape (users, n)."""
    names = ("recall", "ndcg", "mrr")
    if not len(hits):
        return dict.fromkeys((*names, "intervals"))
    gains = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.cumsum(gains)[np.minimum(counts, hits.shape[1]) - 1]
    first = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    each = np.column_stack((hits.sum(axis=1) / counts, hits @ gains / ideal, first))
    means = dict(zip(names, each.mean(axis=0).tolist(), strict=True))
    return means | {"intervals": dict(zip(names, mean_intervals(each), strict=True))}


def _of_lists(fitted: FittedModel, items: np.ndarray) -> dict[str, float | None]:
    bits = -np.log2(fitted.item_counts[items] / len(fitted.users))
    return {
        "catalogue": len(np.unique(items)) / len(fitted.items),
        "novelty": float(bits.mean()) if len(items) else None,
    }
