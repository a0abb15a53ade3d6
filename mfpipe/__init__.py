"""mfpipe: matrix factorisation on Dask, scheduled by Prefect; parallel and bit-identical to serial."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_ESTIMATORS = ("ALS", "BiasedALS", "ItemMean", "LassoMF", "UserItemMean", "UserMean", "load")
__all__ = [*_ESTIMATORS, "__version__"]


def __getattr__(name: str) -> Any:
    # scikit-learn takes longer to import than a small fit takes; the command line does without it.
    if name in _ESTIMATORS:
        from mfpipe import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module 'mfpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
