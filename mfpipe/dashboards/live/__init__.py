"""The fits of a Dask cluster as they go, on its dashboard."""
