"""A stored fit, and how it becomes a fitted model again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import mfpipe
from mfpipe.arrow import to_arrow
from mfpipe.errors import MfpipeError, StoreError
from mfpipe.fitted import FittedModel
from mfpipe.ids import IdMap
from mfpipe.models import MODELS
from mfpipe.models.base import Baseline, Factors
from mfpipe.sealed import Sealed

FACTOR_FILES = {"user_factors.parquet", "item_factors.parquet"}


class Version(Sealed):
    """A stored fit: where it is, what its manifest says, and its files."""

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def number(self) -> str:
        return self.manifest["version"]

    def load(self) -> FittedModel:
        """The fitted model.

        Raises
        ------
        StoreError
            A file is missing or damaged, or the model is not one this mfpipe knows.
        """
        manifest = self.manifest
        if manifest["model"] not in MODELS:
            raise StoreError(
                f"{self.path}: model {manifest['model']!r} is not known to mfpipe {mfpipe.__version__}"
            )
        user, item = self.table("user_factors.parquet"), self.table("item_factors.parquet")
        try:
            model = MODELS[manifest["model"]](**manifest["params"])
            return FittedModel(
                model,
                users=IdMap(user["id"].combine_chunks()),
                items=IdMap(item["id"].combine_chunks()),
                factors=Factors(_rows(user, model), _rows(item, model)),
                baseline=Baseline(
                    manifest["data"]["global_mean"],
                    *(table["mean_rating"].to_numpy() for table in (user, item)),
                ),
                user_counts=user["n_ratings"].to_numpy(),
                item_counts=item["n_ratings"].to_numpy(),
            )
        except (KeyError, TypeError, ValueError, MfpipeError) as error:
            raise StoreError(
                f"{self.path}: not a {manifest['model']} that mfpipe {mfpipe.__version__} reads ({error})"
            ) from error


def _rows(table: pa.Table, model) -> np.ndarray:
    columns = [table[name].to_numpy() for name in model.columns()]
    return np.ascontiguousarray(np.column_stack(columns), model.storage)


def factor_tables(fitted: FittedModel) -> dict[str, Any]:
    """File name → table of one side's ids, counts, means and rows."""
    baseline = fitted.baseline
    user = (fitted.users, fitted.user_counts, baseline.user_means, fitted.factors.user)
    item = (fitted.items, fitted.item_counts, baseline.item_means, fitted.factors.item)
    tables = {}
    for side, (ids, counts, means, rows) in {"user": user, "item": item}.items():
        numbers = {"n_ratings": counts, "mean_rating": means}
        numbers |= dict(zip(fitted.model.columns(), rows.T, strict=True))
        columns = {name: to_arrow(values) for name, values in numbers.items()}
        tables[f"{side}_factors.parquet"] = pa.table({"id": ids.texts, **columns})
    return tables
