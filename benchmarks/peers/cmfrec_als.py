"""cmfrec's CMF without side information or biases: exact by Cholesky, or three conjugate-gradient steps."""

import peer
from cmfrec import CMF
from scipy.sparse import coo_matrix


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "k": options.rank,
        "lambda_": options.regularization,
        "scale_lam": True,
        "method": "als",
        "use_cg": options.solver == "cg",
        "max_cg_steps": 3,
        "precondition_cg": False,
        "finalize_chol": False,
        "user_bias": False,
        "item_bias": False,
        "center": False,
        "add_implicit_features": False,
        "use_float": True,
        "nthreads": options.threads,
        "precompute_for_predictions": False,
        "produce_dicts": False,
        "verbose": True,
        "random_state": 1,
    }


def prepare(data, options):
    """The ratings as a sparse matrix."""
    return coo_matrix((data.target, (data.user, data.item)), shape=data.shape)


def fit(matrix, options, iterations, steps):
    """One fit; the library prints a line after each iteration."""
    model = CMF(niter=iterations, **settings(options)).fit(matrix)
    return peer.Factors(model.A_, model.B_)


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("cmfrec"),
        "settings": settings(options),
        "objective": "J of mfpipe's als with count weighting, on ratings less their mean",
    }


peer.main(prepare, fit, describe, stepwise=False, iteration_line="Completed ALS iteration")
