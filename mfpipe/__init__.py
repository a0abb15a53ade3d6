"""mfpipe: matrix factorisation on Dask, scheduled by Prefect; parallel and bit-identical to serial."""

__version__ = "0.1.0"
