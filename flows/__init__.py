"""Prefect flows over `mfpipe.pipeline`; installed as `mfpipe_flows`."""
