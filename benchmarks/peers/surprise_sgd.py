"""Surprise's SVD: stochastic gradient descent on one thread, with biases as is its default."""

import numpy as np
import pandas as pd
import peer
from surprise import SVD, Dataset, Reader


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "n_factors": options.rank,
        "biased": True,
        "lr_all": 0.005,
        "reg_all": options.regularization,
        "random_state": 1,
        "verbose": True,
    }


def prepare(data, options):
    """A Surprise training set, which is Python lists and dicts."""
    frame = pd.DataFrame({"user": data.user, "item": data.item, "rating": data.target})
    low, high = float(data.target.min()), float(data.target.max())
    return Dataset.load_from_df(frame, Reader(rating_scale=(low, high))).build_full_trainset()


def fit(trainset, options, iterations, steps):
    """One fit; the library prints a line before each epoch."""
    model = SVD(n_epochs=iterations, **settings(options)).fit(trainset)
    users = np.array([trainset.to_inner_uid(u) for u in range(trainset.n_users)])
    items = np.array([trainset.to_inner_iid(i) for i in range(trainset.n_items)])
    print("Processing epoch: after the last", flush=True)
    return peer.Factors(
        model.pu[users].astype(np.float32),
        model.qi[items].astype(np.float32),
        model.bu[users],
        model.bi[items],
        float(trainset.global_mean),
    )


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("scikit-surprise"),
        "settings": settings(options) | {"threads": 1},
        "objective": "biased matrix factorisation with count weighting and biases penalised by the same λ, "
        "approached by stochastic gradient descent: held-out RMSE compares",
    }


peer.main(prepare, fit, describe, stepwise=False, iteration_line="Processing epoch")
