"""Why a prediction is what it is: the share of each of the user's own ratings in it, exactly.

With the item side fixed, a user's factors solve a linear system in the user's own ratings. So a prediction
is a sum over them, each with a weight that says how much the prediction would move with that rating:

    r̂ = μ + b_u + b_i + Σ_j w_j (r_j − μ − b_u − b_j),   w = X_A (X_AᵀX_A + s(1 − α)I)⁻¹ q_A

without μ and biases for a model that has none. A holds all factors for a ridge penalty, and for a lasso,
elastic-net or non-negative one those that are not zero: their values are linear in the ratings as long as
the same ones stay nonzero with the same signs. The l1 penalty then takes a constant away, the `shrinkage`
−(sα/2) sign(p_A)ᵀ (X_AᵀX_A + s(1 − α)I)⁻¹ q_A.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.linalg

from mfpipe.errors import ParameterError
from mfpipe.fitted import SOURCES, FittedModel
from mfpipe.models import FactorModel
from mfpipe.models.base import Block, Factors


class Explanation(NamedTuple):
    """A prediction in parts, all in stars: Σ parts + Σ share = prediction, up to rounding.

    Parameters
    ----------
    prediction : float
        What `predict` says.
    parts : dict of str to float
        What does not come from one of the user's ratings: global mean, biases, shrinkage; for a pair
        with an id that is not in the model, the whole.
    item : ndarray of int32, shape (n,)
        Rows of the items the user rated, the largest shares (by size) first, ties by row.
    rating, weight, share : ndarray of float64, shape (n,)
        share = weight · (rating less the global mean and biases).
    unexplained : float
        What rounding leaves between the prediction and the sum, of the order of 1e-6 with factors in
        float32 and of 1e-12 in float64; with `--solver cg` also what its steps left of the system.
    """

    prediction: float
    parts: dict[str, float]
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    unexplained: float


def explain(fitted: FittedModel, user: int, item: int) -> Explanation:
    """The parts of one prediction of a fitted model, by row; -1 where an id is unknown.

    Raises
    ------
    ParameterError
        The model has no factors, or its training ratings were not kept.
    """
    _factor_model(fitted)
    users, items = np.array([user], np.int32), np.array([item], np.int32)
    prediction = float(fitted.model.predict(fitted.factors, users, items, fitted.baseline)[0])
    if user < 0 or item < 0:
        return _of_cold(fitted, user, item, prediction)
    if fitted.rated is None:
        raise ParameterError(
            "explain needs the ratings that were trained on, and this version does not keep them; train again"
        )
    begin, end = fitted.rated.indptr[user], fitted.rated.indptr[user + 1]
    own = Block(
        0, np.array([0, end - begin]), fitted.rated.columns[begin:end], fitted.rated.values[begin:end]
    )
    return explain_row(fitted, fitted.factors.user[user], own, item)


def explain_row(fitted: FittedModel, row: np.ndarray, own: Block, item: int) -> Explanation:
    """The same for a row of user factors, of the model or folded in, made from the ratings in `own`."""
    model, mean = _factor_model(fitted), fitted.baseline.global_mean
    at = np.zeros(1, np.int32)
    pair = Factors(row[None], fitted.factors.item[[item]])
    prediction = float(model.predict(pair, at, at, fitted.baseline._replace(user_means=at, item_means=at))[0])
    x, q, p = (
        rows.astype(np.float64) for rows in (fitted.factors.item[own.columns], fitted.factors.item[item], row)
    )
    target, parts = own.values.astype(np.float64), {}
    if model.biased:
        target = target - mean - p[0] - x[:, 0]
        parts = {"global mean": mean, "user bias": float(p[0]), "item bias": float(q[0])}
        x, q, p = x[:, 1:], q[1:], p[1:]
    penalty = float(model.penalties(own, fitted.totals)[0][0])
    weight, shrinkage = _weights(model, x, q, p, penalty)
    if model.l1_share:
        parts["shrinkage"] = shrinkage
    share = weight * target
    order = np.lexsort((own.columns, -np.abs(share)))
    unexplained = prediction - sum(parts.values()) - float(share.sum())
    rating = own.values.astype(np.float64)
    return Explanation(
        prediction, parts, own.columns[order], rating[order], weight[order], share[order], unexplained
    )


def _factor_model(fitted: FittedModel) -> FactorModel:
    if not isinstance(fitted.model, FactorModel):
        raise ParameterError(f"explain: {fitted.model.name} has no factors; its predictions are means")
    return fitted.model


def _weights(model: FactorModel, x, q, p, penalty: float) -> tuple[np.ndarray, float]:
    """What each rating counts with, and what the l1 penalty takes away."""
    active = p != 0 if model.descends else np.ones(len(p), dtype=bool)
    x, q, signs = x[:, active], q[active], np.sign(p[active])
    system = x.T @ x + penalty * (1 - model.l1_share) * np.eye(len(q))
    try:
        pull = scipy.linalg.cho_solve(scipy.linalg.cho_factor(system), q) if len(q) else q
    except np.linalg.LinAlgError:
        pull = np.linalg.lstsq(system, q, rcond=None)[0]  # as the shortest minimiser does
    return x @ pull, -penalty * model.l1_share / 2 * float(signs @ pull)


def _of_cold(fitted: FittedModel, user: int, item: int, prediction: float) -> Explanation:
    model, none = fitted.model, np.empty(0)
    parts = {"fallback": prediction}
    if model.columns()[0] == "bias":
        parts = {"global mean": fitted.baseline.global_mean}
        for side, row in (("user", user), ("item", item)):
            if row >= 0:
                parts[f"{side} bias"] = float(getattr(fitted.factors, side)[row, 0])
    left = prediction - sum(parts.values())
    return Explanation(prediction, parts, np.empty(0, np.int32), none, none, none, left)


def record(fitted: FittedModel, user: str, item: str) -> dict:
    """The parts of one prediction by ids, as plain values."""
    users, items = (ids.rows(pa.array([one])) for ids, one in ((fitted.users, user), (fitted.items, item)))
    found = explain(fitted, int(users[0]), int(items[0]))
    texts = fitted.items.texts.take(pa.array(found.item)).to_pylist()
    columns = zip(texts, found.rating.tolist(), found.weight.tolist(), found.share.tolist(), strict=True)
    return {
        "user": user,
        "item": item,
        "prediction": found.prediction,
        "source": str(SOURCES[(users[0] < 0) + 2 * (items[0] < 0)]),
        "parts": found.parts,
        "ratings": [
            {"item": text, "rating": rating, "weight": weight, "share": share}
            for text, rating, weight, share in columns
        ],
        "unexplained": found.unexplained,
    }
