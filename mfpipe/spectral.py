"""Starting factors from the ratings' own leading singular vectors, by a few passes over the partitions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mfpipe.cluster import one_blas_thread
from mfpipe.executors import Executor
from mfpipe.models import FactorModel
from mfpipe.models.base import OTHER, Factors
from mfpipe.models.projection import Projection
from mfpipe.ratings import Ratings

PASSES = ("user", "item", "user")
VANISHED = 10  # √ε of the largest singular value: ZᵀZ says nothing of directions below


class _Spectrum(NamedTuple):
    """Of rows Z = U Σ Vᵀ: Σ, V, and what makes an orthonormal basis Z · `orthonormal` of them.

    Directions that have `vanished` are zero in the basis.
    """

    values: np.ndarray
    vanished: np.ndarray
    vectors: np.ndarray
    orthonormal: np.ndarray


def spectral_start(model: FactorModel, ratings: Ratings, executor: Executor, keyed: Factors) -> Factors:
    """The best factors there are of this rank if who rated what were independent of the ratings.

    Then a pair is rated with probability n_u n_i / N, and of all P and Q the least expected squared error
    have  P = D_u^(-1/2) U (NΣ)^(1/2)  and  Q = D_i^(-1/2) V (NΣ)^(1/2),  where U Σ Vᵀ are the leading
    singular vectors and values of  A = D_u^(-1/2) R D_i^(-1/2),  R the ratings (of a biased model: less
    its mean and biases), zero where there is none, and D the numbers of ratings. They are found by
    subspace iteration from the keyed items. Directions that A does not have stay as they are keyed.

    Parameters
    ----------
    model : FactorModel
    ratings : Ratings
    executor : Executor
        Made with these ratings.
    keyed : Factors
        The model's keyed start.

    Returns
    -------
    Factors
        The same to the last bit wherever and in however many partitions the passes run.

    References
    ----------
    Halko, Martinsson, Tropp: Finding structure with randomness, SIAM Review 53(2), 2011, algorithm 4.4.
    Keshavan, Montanari, Oh: Matrix completion from a few entries, IEEE Trans. Inf. Theory 56(6), 2010
    (alternation from singular vectors). Salakhutdinov, Srebro: Collaborative filtering in a non-uniform
    world, NIPS 2010, section 3 (the scaling by numbers of ratings).
    """
    first = len(model.columns()) - model.rank
    counts = {"user": ratings.user_counts, "item": ratings.item_counts}
    scales = {side: (count[:, None] ** -0.5).astype(model.storage) for side, count in counts.items()}
    rows = {"item": keyed.item.copy()}
    rows["item"][:, :first] = 0
    projection = Projection(model)

    def turn(side: str, by: np.ndarray, scale: np.ndarray | float) -> None:
        turned = rows[side][:, first:] @ by
        np.multiply(turned, scale, out=rows[side][:, first:])

    with one_blas_thread():  # or their number would show in the last bits
        spectrum = _spectrum(rows["item"][:, first:])
        for side in PASSES:
            other = OTHER[side]
            turn(other, spectrum.orthonormal, scales[other])
            rows[side] = executor.half_step(projection, side, rows[other][:0], rows[other]).rows
            spectrum = _spectrum(rows[side][:, first:])
        sizes = (model.init_scale * np.sqrt(len(ratings) * spectrum.values)).astype(model.storage)
        turn("user", spectrum.orthonormal * sizes, scales["user"])
        turn("item", spectrum.vectors * sizes, 1)
    for side, made in rows.items():
        factors = made[:, first:]
        np.copyto(factors, getattr(keyed, side)[:, first:], where=spectrum.vanished)
        if not model.signed:
            np.abs(factors, out=factors)
    return Factors(rows["user"], rows["item"])


def _spectrum(rows: np.ndarray) -> _Spectrum:
    squares, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    values = np.sqrt(np.maximum(squares, 0))
    vanished = values <= VANISHED * np.sqrt(np.finfo(rows.dtype).eps) * values[-1]
    inverse = np.divide(1, values, out=np.zeros_like(values), where=~vanished)
    vectors = vectors.astype(rows.dtype)
    return _Spectrum(values, vanished, vectors, vectors * inverse.astype(rows.dtype))
