"""Spark ML's ALS (exact, by normal equations), in local mode."""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import peer
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession, functions

MEMORY = os.environ.get("MFPIPE_BENCH_SPARK_MEMORY", "8g")


def settings(options) -> dict:
    """What is not its default, and what decides the objective."""
    return {
        "rank": options.rank,
        "regParam": options.regularization,
        "implicitPrefs": False,
        "nonnegative": False,
        "numUserBlocks": 2 * options.threads,
        "numItemBlocks": 2 * options.threads,
        "seed": 1,
    }


SCRATCH = tempfile.TemporaryDirectory(prefix="mfpipe-bench-spark-")  # removed when the process ends


def scratch(name: str) -> str:
    """A path that is gone after the run."""
    return str(Path(SCRATCH.name) / name)


def session(options):
    """A local Spark with as many cores as there are threads."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    started = (
        SparkSession.builder.master(f"local[{options.threads}]")
        .config("spark.driver.memory", MEMORY)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", 2 * options.threads)
        .getOrCreate()
    )
    started.sparkContext.setLogLevel("ERROR")
    # Without it the lineage of 20 iterations overflows the virtual machine's stack.
    started.sparkContext.setCheckpointDir(scratch("checkpoints"))
    return started


def prepare(data, options):
    """A cached Spark data frame, through a Parquet file: made from pandas it would take minutes."""
    if not isinstance(data, peer.Data):
        return data
    file = scratch("ratings.parquet")
    pq.write_table(pa.table({"user": data.user, "item": data.item, "rating": data.target}), file)
    frame = session(options).read.parquet(file).cache()
    frame.count()
    return frame


def read_csv(options):
    """Spark reads the file itself."""
    frame = session(options).read.csv(options.csv, header=True, schema="user INT, item INT, rating FLOAT")
    mean = frame.select(functions.mean("rating")).first()[0]
    centred = frame.withColumn("rating", functions.col("rating") - float(mean)).cache()
    return Frame(centred, mean), {}


class Frame:
    """A Spark data frame and its mean."""

    def __init__(self, frame, mean: float):
        self.frame, self.mean = frame, mean


def fit(state, options, iterations, steps):
    """Spark times no iteration: a fit of one and a fit of all give the seconds between by difference."""
    if isinstance(state, Frame):
        model = _fit(state.frame, options, iterations)
        users, items = (_rows(rows) for rows in (model.userFactors, model.itemFactors))
        np.savez(
            options.factors, users=users[0], user=users[1], items=items[0], item=items[1], mean=state.mean
        )
        options.factors = None
        return None
    if iterations > 1 and not options.at:
        _fit(state, options, 1)  # the virtual machine compiles what is used often
        began = time.perf_counter()
        _fit(state, options, 1)
        one = time.perf_counter() - began
        began = time.perf_counter()
        model = _fit(state, options, iterations)
        steps.seconds = [(time.perf_counter() - began - one) / (iterations - 1)]
    else:
        model = _fit(state, options, iterations)
    users, items = (_rows(rows) for rows in (model.userFactors, model.itemFactors))
    return peer.Factors(users[1], items[1])


def _fit(frame, options, iterations):
    return ALS(
        userCol="user", itemCol="item", ratingCol="rating", maxIter=iterations, **settings(options)
    ).fit(frame)


def _rows(frame) -> tuple[np.ndarray, np.ndarray]:
    """Ids in ascending order, and their factors."""
    rows = frame.orderBy("id").toPandas()
    return rows["id"].to_numpy(), np.stack(rows["features"].to_list()).astype(np.float32)


def describe(options) -> dict:
    """For the report."""
    return {
        "versions": peer.versions("pyspark"),
        "settings": settings(options) | {"master": f"local[{options.threads}]", "driver memory": MEMORY},
        "objective": "J of mfpipe's als with count weighting, on ratings less their mean",
    }


peer.main(prepare, fit, describe, stepwise=False, read_csv=read_csv)
