"""The models as scikit-learn estimators: X holds (user, item) ids, y the ratings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from mfpipe import models, rated
from mfpipe.answers import Answers
from mfpipe.errors import RatingsError
from mfpipe.executors import executor
from mfpipe.fitted import FittedModel
from mfpipe.inputs import id_array, id_columns, ratings_of
from mfpipe.models.base import Factors, Model
from mfpipe.ratings import encode
from mfpipe.store import Store, parse_name
from mfpipe.watching import watched


class Estimator(Answers, RegressorMixin, BaseEstimator):
    """What all estimators share; the solvers are those of the command line.

    Attributes
    ----------
    users_, items_ : ndarray
        The ids trained on, in row order.
    global_mean_ : float
        Mean of the training ratings.
    history_ : list of dict
        A record for each iteration: objective, RMSE, seconds.
    n_iter_ : int
    converged_ : bool
    """

    _model: ClassVar[type[Model]]

    def model(self) -> Model:
        """The hyper-parameters, checked; ParameterError (a ValueError) if one is out of range."""
        names, params = self._model.__dataclass_fields__, self.get_params()
        if not isinstance(params.get("init"), str):  # none, or the factors themselves
            params.pop("init", None)
        return self._model(**{name: value for name, value in params.items() if name in names})

    def fit(self, X, y, *, client=None):
        """Fit to ratings.

        Parameters
        ----------
        X : array or frame, shape (n, 2)
            User and item ids: integers or text. A pair given more than once counts as its mean.
        y : array, shape (n,)
            Ratings; each counts once, there is no `sample_weight`.
        client : distributed.Client, optional
            Fit on its cluster; the result is the same to the last bit.

        Returns
        -------
        self

        Raises
        ------
        ParameterError, RatingsError
            Both are ValueErrors; scikit-learn's own for what is no matrix of finite values.
        """
        model = self.model()
        users, items = id_columns(X, fitting=True)
        validate_data(self, X, y, skip_check_array=True)
        ratings = encode([users], [items], ratings_of(y, X), duplicates="mean")
        init = getattr(self, "init", None)
        given = not (init is None or isinstance(init, str))
        start = _start(init, len(ratings.users), len(ratings.items), model) if given else None
        with executor(ratings, model.storage, "serial", client=client) as where:
            result = watched(model, ratings, where, type(self).__name__, start=start)
        for message in result.warnings:
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        self.history_, self.converged_ = result.history, result.converged
        return self._keep(FittedModel.of(result, ratings))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = True
        tags.regressor_tags.poor_score = True  # ids have no magnitude to regress on
        return tags

    def _keep(self, fitted: FittedModel):
        self.fitted_ = fitted
        self.users_, self.items_ = id_array(fitted.users), id_array(fitted.items)
        self.global_mean_ = fitted.baseline.global_mean
        return self

    @property
    def n_iter_(self) -> int:
        return len(self.history_)

    def predict(self, X) -> np.ndarray:
        """Predicted ratings of (user, item) pairs.

        Parameters
        ----------
        X : array or frame, shape (n, 2)

        Returns
        -------
        ndarray of float64, shape (n,)
            Never NaN: an unseen id falls back to what is known.
        """
        check_is_fitted(self, "fitted_")
        columns = id_columns(X, fitting=False)
        validate_data(self, X, reset=False, skip_check_array=True)
        users, items = columns
        return self.fitted_.predict(users, items)[0]


class UserMean(Estimator):
    """Predicts the user's mean rating; the global mean for an unseen user."""

    _model = models.UserMean


class ItemMean(Estimator):
    """Predicts the item's mean rating; the global mean for an unseen item."""

    _model = models.ItemMean


class UserItemMean(Estimator):
    """Predicts the average of the user's and the item's mean rating."""

    _model = models.UserItemMean


class FactorEstimator(Estimator):
    """What the estimators with factors share."""

    def _keep(self, fitted: FittedModel):
        rank = fitted.model.params["rank"]
        self.user_factors_, self.item_factors_ = (rows[:, -rank:] for rows in fitted.factors)
        if fitted.model.columns()[0] == "bias":
            self.user_biases_, self.item_biases_ = (rows[:, 0] for rows in fitted.factors)
        return super()._keep(fitted)


class ALS(FactorEstimator):
    """Matrix factorisation with a ridge penalty, by alternating least squares.

    Minimises  (1/N) Σ (r − p·q)² + λ Σ_u w_u ‖p_u‖² + λ Σ_i w_i ‖q_i‖².

    Parameters
    ----------
    rank : int, default 10
        Number of latent factors.
    regularization : float, default 0.05
        λ ≥ 0.
    weighting : {'count', 'uniform'}, default 'count'
        w = (a row's number of ratings)/N, or 1.
    max_iter : int, default 50
    tol : float, default 1e-4
        Stop when an iteration lowers the objective by less than this share of it.
    random_state : int, default 0
        Keys the start, together with each id; see `init`.
    dtype : {'float32', 'float64'}, default 'float32'
    nonnegative : bool, default False
        Keep every factor at zero or above.
    cold : {'fallback', 'zero'}, default 'fallback'
        Prediction for an unseen id: the mean of the known side, or 0.
    accelerate : bool, default False
        Try each item half-step from users extrapolated along their last step (Nesterov); kept only where
        it lowers the objective, so that the objective still never rises.
    init : {'random', 'spectral'} or tuple of ndarray, default 'random'
        Start from random rows, from the leading singular vectors of the ratings (fewer iterations on large
        data), or from (user_factors, item_factors) in the order of `users_` and `items_`.
    init_scale : float, default 1
        What the factors of the random and the spectral start are multiplied by. From a small start the
        strongest directions grow first, and a fit of a few iterations predicts better than the optimum where
        the mean is taken from the ratings (by `BiasedALS`, or beforehand).
    solver : {'cholesky', 'cg'}, default 'cholesky'
        Solve every row exactly, or take `cg_steps` steps of conjugate gradients from where it is: the
        objective falls a little less in an iteration, which at rank 64 takes 0.56 of the time.
    cg_steps : int, default 3

    Attributes
    ----------
    user_factors_, item_factors_ : ndarray, shape (rows, rank)

    References
    ----------
    Zhou, Wilkinson, Schreiber, Pan: Large-scale parallel collaborative filtering for the Netflix
    prize, AAIM 2008.
    """

    _model = models.ALS

    def __init__(
        self,
        rank=10,
        regularization=0.05,
        weighting="count",
        max_iter=50,
        tol=1e-4,
        random_state=0,
        dtype="float32",
        nonnegative=False,
        cold="fallback",
        accelerate=False,
        init="random",
        init_scale=1.0,
        solver="cholesky",
        cg_steps=3,
    ):
        self.rank = rank
        self.regularization = regularization
        self.weighting = weighting
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.dtype = dtype
        self.nonnegative = nonnegative
        self.cold = cold
        self.accelerate = accelerate
        self.init = init
        self.init_scale = init_scale
        self.solver = solver
        self.cg_steps = cg_steps


class BiasedALS(FactorEstimator):
    """Biases and matrix factorisation, r̂ = μ + b_u + b_i + p·q, by block coordinate descent.

    Parameters
    ----------
    rank, regularization, weighting, max_iter, tol, random_state, dtype, nonnegative, accelerate
        See `ALS`.
    init, init_scale, solver, cg_steps
        See `ALS`; a tuple as `init` has factors without biases, which start at zero.
    bias_regularization : float, default 0
        λ_b ≥ 0 of the biases.
    block_order : {'joint', 'separate'}, default 'joint'
        Solve a bias and its factors together, or one after the other.

    Attributes
    ----------
    user_factors_, item_factors_ : ndarray, shape (rows, rank)
    user_biases_, item_biases_ : ndarray, shape (rows,)
        In stars; Σ n_i b_i = 0 in each connected component where they are not penalised.

    References
    ----------
    Koren, Bell, Volinsky: Matrix factorization techniques for recommender systems, Computer 42(8), 2009.
    """

    _model = models.BiasedALS

    def __init__(
        self,
        rank=10,
        regularization=0.05,
        weighting="count",
        max_iter=50,
        tol=1e-4,
        random_state=0,
        dtype="float32",
        bias_regularization=0.0,
        block_order="joint",
        nonnegative=False,
        accelerate=False,
        init="random",
        init_scale=1.0,
        solver="cholesky",
        cg_steps=3,
    ):
        self.rank = rank
        self.regularization = regularization
        self.weighting = weighting
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.dtype = dtype
        self.bias_regularization = bias_regularization
        self.block_order = block_order
        self.nonnegative = nonnegative
        self.accelerate = accelerate
        self.init = init
        self.init_scale = init_scale
        self.solver = solver
        self.cg_steps = cg_steps


class LassoMF(FactorEstimator):
    """Matrix factorisation with a lasso or elastic-net penalty, by coordinate descent in each row.

    Parameters
    ----------
    rank, regularization, weighting, max_iter, tol, random_state, dtype, nonnegative, cold, accelerate
        See `ALS`.
    init, init_scale
        See `ALS`.
    l1_ratio : float in [0, 1], default 1
        α of the penalty α‖p‖₁ + (1 − α)‖p‖².
    balance : bool, default False
        Rescale both sides between iterations to the least penalty; for l1_ratio 0 or 1.

    Attributes
    ----------
    user_factors_, item_factors_ : ndarray, shape (rows, rank)

    References
    ----------
    Zou, Hastie: Regularization and variable selection via the elastic net, J. R. Statist. Soc. B 67, 2005.
    """

    _model = models.LassoMF

    def __init__(
        self,
        rank=10,
        regularization=0.05,
        weighting="count",
        max_iter=50,
        tol=1e-4,
        random_state=0,
        dtype="float32",
        l1_ratio=1.0,
        nonnegative=False,
        balance=False,
        cold="fallback",
        accelerate=False,
        init="random",
        init_scale=1.0,
    ):
        self.rank = rank
        self.regularization = regularization
        self.weighting = weighting
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.dtype = dtype
        self.l1_ratio = l1_ratio
        self.nonnegative = nonnegative
        self.balance = balance
        self.cold = cold
        self.accelerate = accelerate
        self.init = init
        self.init_scale = init_scale


ESTIMATORS = {cls._model.name: cls for cls in (UserMean, ItemMean, UserItemMean, LassoMF, BiasedALS, ALS)}


def load(name: str, store: str | Path = "mfpipe-store"):
    """A stored model as a fitted estimator.

    Parameters
    ----------
    name : str
        NAME for its current version, or NAME@VERSION.
    store : path

    Raises
    ------
    StoreError
        There is no such version, or it is damaged.
    """
    version = Store(store).version(*parse_name(name))
    fitted = rated.load(version)
    estimator = ESTIMATORS[fitted.model.name](**fitted.model.params)
    estimator.history_ = version.table("history.parquet").to_pylist()
    estimator.converged_, estimator.n_features_in_ = version.manifest["converged"], 2
    return estimator._keep(fitted)


def _start(init, n_users: int, n_items: int, model: Model) -> Factors:
    factors = Factors(*(np.asarray(rows, model.storage) for rows in init))
    rank = model.params["rank"]
    wanted = ((n_users, rank), (n_items, rank))
    found = tuple(rows.shape for rows in factors)
    if found != wanted:
        raise RatingsError(f"init has arrays of shape {found}; these ratings and this rank need {wanted}")
    biases = len(model.columns()) - rank
    return Factors(*(np.pad(rows, ((0, 0), (biases, 0))) for rows in factors))
