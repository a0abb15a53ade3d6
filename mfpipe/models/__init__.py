"""The models, by the name they have on the command line. A new one is one file and one line here."""

from mfpipe.models.als import ALS
from mfpipe.models.base import Model
from mfpipe.models.biased import BiasedALS
from mfpipe.models.factors import FactorModel
from mfpipe.models.lasso import LassoMF
from mfpipe.models.means import ItemMean, UserItemMean, UserMean

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (UserMean, ItemMean, UserItemMean, LassoMF, BiasedALS, ALS)
}

__all__ = [
    "ALS",
    "MODELS",
    "BiasedALS",
    "FactorModel",
    "ItemMean",
    "LassoMF",
    "Model",
    "UserItemMean",
    "UserMean",
]
