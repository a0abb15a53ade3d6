"""LensKit's explicit ALS (BiasedMFScorer, exact, Rust), with biases damped away."""

import numpy as np
import pandas as pd
import peer
from lenskit.als import BiasedMFScorer
from lenskit.data import from_interactions_df
from lenskit.training import TrainingOptions

DAMPING = 1e15  # biases are Σ residuals / (n + damping): zero in float32, so only the mean is left


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "embedding_size": options.rank,
        "regularization": options.regularization,
        "damping": DAMPING,
        "user_embeddings": "prefer",
    }


def prepare(data, options):
    """A LensKit data set."""
    frame = pd.DataFrame({"user_id": data.user, "item_id": data.item, "rating": data.target})
    return from_interactions_df(frame)


def fit(dataset, options, iterations, steps):
    """Epoch by epoch, as its own training loop does."""
    scorer = BiasedMFScorer(epochs=iterations, **settings(options))
    trainer = scorer.create_trainer(dataset, TrainingOptions(rng=1))

    def factors():
        # Row numbers are ids here, and every row has ratings, so both vocabularies are in row order.
        assert np.array_equal(scorer.users.ids(), np.arange(len(scorer.users)))
        assert np.array_equal(scorer.items.ids(), np.arange(len(scorer.items)))
        return peer.Factors(
            np.array(scorer.user_embeddings),
            np.array(scorer.item_embeddings),
            offset=float(scorer.bias.global_bias),
        )

    steps.restart()
    for _ in range(iterations):
        trainer.train_epoch()
        steps.done(factors)
    trainer.finalize()
    return factors()


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("lenskit"),
        "settings": settings(options),
        "objective": "J of mfpipe's als with count weighting, on ratings less their mean",
    }


peer.main(prepare, fit, describe, stepwise=True)
