"""What the scripts of all packages share; runs in their environments, so it needs only numpy and pandas.

A script says what happens as JSON lines on standard output, `{"event": …}`; the measuring process notes when
each arrives. Whatever else the package prints there is noted with its time too: some print a line for
every iteration and offer no other way to time one.
"""

import argparse
import json
import time
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """Training and held-out triples by row number; targets are ratings less `mean`."""

    user: np.ndarray
    item: np.ndarray
    target: np.ndarray
    test_user: np.ndarray
    test_item: np.ndarray
    test_target: np.ndarray
    mean: float
    shape: tuple


class Factors(NamedTuple):
    """r̂ − mean = offset + user_bias + item_bias + user · item."""

    user: np.ndarray
    item: np.ndarray
    user_bias: np.ndarray | None = None
    item_bias: np.ndarray | None = None
    offset: float = 0.0


class Steps:
    """Notes the seconds of each iteration, and where asked the held-out RMSE after it."""

    def __init__(self, data: Data, wanted: list[int]):
        self.data, self.wanted = data, wanted
        self.seconds: list[float] = []
        self.reached: list[dict] = []
        self.restart()

    def restart(self) -> None:
        self._mark = time.perf_counter()

    def done(self, factors=None) -> None:
        """An iteration is over; `factors` gives them when called."""
        self.seconds.append(time.perf_counter() - self._mark)
        if len(self.seconds) in self.wanted and factors is not None:
            self.reach(len(self.seconds), sum(self.seconds), factors())
        self.restart()

    def reach(self, iterations: int, seconds: float, factors: Factors) -> None:
        rmse = held_out_rmse(factors, self.data)
        self.reached.append({"iterations": iterations, "seconds": seconds, "held_out_rmse": rmse})


def event(name: str, **more) -> None:
    """Tell the measuring process what happened."""
    print("\n" + json.dumps({"event": name} | more), flush=True)


def arguments() -> argparse.Namespace:
    """The command line that every script has."""
    parser = argparse.ArgumentParser()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ratings", help="a set's .npz")
    source.add_argument("--csv", help="a CSV file of user, item, rating; the factors are kept with its ids")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--solver", default="")
    parser.add_argument("--factors", help="where the factors are kept")
    parser.add_argument("--at", default="", help="iterations after which held-out RMSE is wanted")
    options = parser.parse_args()
    options.at = [int(n) for n in options.at.split(",") if n]
    return options


def main(prepare, fit, describe, stepwise: bool, iteration_line: str = "", read_csv=None) -> None:
    """Run one fit, or several to see the held-out RMSE after each number of iterations.

    Parameters
    ----------
    prepare : (data, options) → state
        What the package needs before it can fit.
    fit : (state, options, iterations, steps) → Factors
        Calls `steps.done` after each iteration if `stepwise`.
    describe : options → dict
        `versions`, `settings` and `objective`, for the report.
    stepwise : bool
    iteration_line : str
        A regular expression for what the package prints once an iteration, where it is not stepwise.
    """
    options = arguments()
    data, ids = (read_csv or csv)(options) if options.csv else (npz(options.ratings), {})
    event("loaded")
    state = prepare(data, options)
    event("prepared")
    steps = Steps(data, options.at)
    if options.at and not stepwise:
        for n in options.at:
            began = time.perf_counter()
            factors = fit(state, options, n, Steps(data, []))
            steps.reach(n, time.perf_counter() - began, factors)
        steps.seconds = []
    else:
        event("fitting")
        steps.restart()
        factors = fit(state, options, options.iterations, steps)
    event("fitted")
    if options.factors:
        given = {key: value for key, value in factors._asdict().items() if value is not None}
        np.savez(options.factors, **given, **ids, mean=data.mean)
    event(
        "result",
        seconds=steps.seconds,
        iteration_line=iteration_line,
        reached=steps.reached,
        **describe(options),
    )


def npz(path: str) -> Data:
    """A set as the measuring process keeps it."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays["mean"], arrays["shape"] = float(arrays["mean"]), tuple(int(n) for n in arrays["shape"])
    return Data(**arrays)


def csv(options):
    """A CSV file by pandas, as most packages' documentation reads one."""
    import pandas as pd

    frame = pd.read_csv(options.csv)
    user, users = pd.factorize(frame.iloc[:, 0], sort=True)
    item, items = pd.factorize(frame.iloc[:, 1], sort=True)
    rating = frame.iloc[:, 2].to_numpy(np.float32)
    mean = float(rating.mean(dtype=np.float64))
    none = np.empty(0, np.int32)
    triples = user.astype(np.int32), item.astype(np.int32), rating - np.float32(mean)
    data = Data(*triples, none, none, none, mean, (len(users), len(items)))
    return data, {"users": np.asarray(users), "items": np.asarray(items)}


def held_out_rmse(factors: Factors, data: Data) -> float:
    """RMSE on the held-out pairs, in stars."""
    total, size = 0.0, 1 << 18
    for at in range(0, len(data.test_user), size):
        user, item = data.test_user[at : at + size], data.test_item[at : at + size]
        predicted = np.einsum("nk,nk->n", factors.user[user], factors.item[item]) + factors.offset
        if factors.user_bias is not None:
            predicted = predicted + factors.user_bias[user] + factors.item_bias[item]
        total += float(np.sum((data.test_target[at : at + size] - predicted) ** 2, dtype=np.float64))
    return (total / max(1, len(data.test_user))) ** 0.5


def versions(*names: str) -> dict:
    """Installed versions of packages."""
    from importlib.metadata import version

    return {name: version(name) for name in names}
