"""Any system's factors, judged the same way: J of mfpipe's als, and RMSE on both kinds of ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.data import Triples
from mfpipe.kernels import readonly
from mfpipe.kernels.pairs import dot_pairs


def judge(path: Path, triples: Triples, regularization: float) -> dict:
    """Judge factors that a system kept.

    Parameters
    ----------
    path : Path
        .npz with `user` and `item`, shape (rows, rank); maybe biases and an offset.
    triples : Triples
    regularization : float
        λ of J = (1/N) Σ (r − r̂)² + λ Σ_u (n_u/N) ‖p_u‖² + λ Σ_i (n_i/N) ‖q_i‖².

    Returns
    -------
    dict
        `objective`, `train_rmse` and `held_out_rmse`, in stars; biases carry no penalty in it.
    """
    with np.load(path) as file:
        factors = {name: file[name] for name in file.files}
    train = triples.target - predicted(factors, triples.user, triples.item)
    test = triples.test_target - predicted(factors, triples.test_user, triples.test_item)
    squares = float(train @ train) / len(train)
    counts = {
        "user": np.bincount(triples.user, minlength=triples.shape[0]),
        "item": np.bincount(triples.item, minlength=triples.shape[1]),
    }
    penalty = sum(
        float(counts[side] @ np.einsum("nk,nk->n", rows, rows, dtype=np.float64)) / len(train)
        for side, rows in ((side, factors[side]) for side in counts)
    )
    return {
        "objective": squares + regularization * penalty,
        "train_rmse": squares**0.5,
        "held_out_rmse": float(np.sqrt(test @ test / max(1, len(test)))),
    }


def predicted(factors: dict, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Predictions less the mean; float64, shape (n,)."""
    rows = (np.ascontiguousarray(factors[side], np.float32) for side in ("user", "item"))
    found = np.zeros(len(users))
    dot_pairs(*readonly(users, items, *rows), found)
    found += float(factors.get("offset", 0.0))
    if "user_bias" in factors:
        found += factors["user_bias"][users] + factors["item_bias"][items]
    return found
