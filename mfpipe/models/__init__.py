"""The models, by the name they have on the command line. A new one is one file and one line here."""

from mfpipe.models.als import ALS
from mfpipe.models.base import FactorModel, Model
from mfpipe.models.means import ItemMean, UserItemMean, UserMean

MODELS: dict[str, type[Model]] = {m.name: m for m in (UserMean, ItemMean, UserItemMean, ALS)}

__all__ = ["ALS", "MODELS", "FactorModel", "ItemMean", "Model", "UserItemMean", "UserMean"]
