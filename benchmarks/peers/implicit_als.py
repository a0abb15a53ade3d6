"""implicit's ALS: another model, of confidences instead of ratings, which fits the empty cells too."""

import peer
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "factors": options.rank,
        "regularization": options.regularization,
        "alpha": 1.0,
        "use_native": True,
        "use_cg": options.solver == "cg",
        "num_threads": options.threads,
        "random_state": 1,
    }


def prepare(data, options):
    """Stars as confidences."""
    return csr_matrix((data.target + data.mean, (data.user, data.item)), shape=data.shape, dtype="float32")


def fit(matrix, options, iterations, steps):
    """One fit; the library calls back after each iteration."""
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(iterations=iterations, **settings(options))
        steps.restart()
        model.fit(matrix, show_progress=False, callback=lambda *_: steps.done())
    return peer.Factors(model.user_factors, model.item_factors)


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("implicit"),
        "settings": settings(options),
        "objective": "weighted squared error over all cells, empty ones as zeros of confidence 1: not a "
        "model of ratings, so only its seconds and memory compare",
    }


peer.main(prepare, fit, describe, stepwise=True)
