"""LIBMF: parallel stochastic gradient descent, inexact."""

import numpy as np
import peer
from libmf import mf


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "fun": 0,
        "k": options.rank,
        "nr_threads": options.threads,
        "lambda_p1": 0.0,
        "lambda_p2": options.regularization,
        "lambda_q1": 0.0,
        "lambda_q2": options.regularization,
        "eta": 0.1,
        "quiet": False,
    }


def prepare(data, options):
    """Triples as one array of float32: row numbers are exact in it up to 2^24."""
    triples = np.empty((len(data.user), 3), np.float32)
    triples[:, 0], triples[:, 1], triples[:, 2] = data.user, data.item, data.target
    return triples


def fit(triples, options, iterations, steps):
    """One fit; the library prints a line after each iteration."""
    engine = mf.MF(nr_iters=iterations, **settings(options))
    engine.fit(triples)
    return peer.Factors(np.array(engine.p_factors()), np.array(engine.q_factors()))


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("libmf"),
        "settings": settings(options),
        "objective": "J of mfpipe's als with count weighting, on ratings less their mean, approached by "
        "stochastic gradient descent: held-out RMSE compares",
    }


peer.main(prepare, fit, describe, stepwise=False, iteration_line=r"^\s*\d+\s+\d+\.\d+\s")
