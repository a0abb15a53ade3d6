"""The figures that must be shown: target, measured, met or not, from results.json alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

RMSE_MARGIN = 1.001
WAYS = ("init-scale", "solver", "cg-steps")


class Figure(NamedTuple):
    """One line of the table; `met` is None where the run has not measured it, or there is no target."""

    what: str
    target: str
    measured: str
    met: bool | None


def figures(results: dict) -> list[Figure]:
    """Every figure, in the order of the targets."""
    found: list[Figure] = []
    for make in MAKERS:
        found += make(results["sections"])
    return found


def rows(sections: dict, section: str, **match) -> list[dict]:
    """Rows of a section that ran, whose fields or options are as given."""
    return [
        row
        for row in sections.get(section) or []
        if row.get("seconds") and all(row.get(k, row["options"].get(k)) == v for k, v in match.items())
    ]


def median(row: dict) -> float:
    return row["seconds"]["median"]


def _ratio(slow: dict, fast: dict) -> tuple[float, str]:
    """How many times longer one takes, with the least and most that the runs allow."""
    value = median(slow) / median(fast)
    low = slow["seconds"]["min"] / fast["seconds"]["max"]
    high = slow["seconds"]["max"] / fast["seconds"]["min"]
    return value, f"{value:.3g}× ({low:.3g} to {high:.3g})"


def _compared(
    sections: dict,
    what: str,
    set_: str,
    targets: dict[int, tuple[float, str]],
    system: str,
    solver: str = "",
    our_solver: str | None = None,
) -> Iterator[Figure]:
    """Mfpipe against one package at several ranks: time an iteration, and RMSE where objectives agree."""
    match = {"solver": solver} if solver else {}
    for rank, (target, words) in targets.items():
        ours = rows(sections, "peers", set=set_, rank=rank, system="mfpipe", solver=our_solver)
        theirs = rows(sections, "peers", set=set_, rank=rank, system=system, **match)
        name = f"{what}, rank {rank}"
        if not (ours and theirs):
            yield Figure(name, words, "not measured in this run", None)
            continue
        value, text = _ratio(theirs[0], ours[0])
        yield Figure(
            name, words, f"{text}: {median(ours[0]):.3g} against {median(theirs[0]):.3g} s", value >= target
        )
        if theirs[0].get("quality") and theirs[0]["iterations"] <= len(ours[0]["said"]["course"]):
            yield _no_worse(name, ours[0], theirs[0])


def _no_worse(name: str, ours: dict, theirs: dict) -> Figure:
    """Where the objectives agree: J and training RMSE after as many iterations as the package ran.

    Also how long it takes until J is no higher than the package's.
    """
    iterations, other, course = theirs["iterations"], theirs["quality"], ours["said"]["course"]
    mine = course[iterations - 1]
    met = mine["train_rmse"] <= RMSE_MARGIN * other["train_rmse"] or mine["objective"] <= other["objective"]
    measured = (
        f"after {iterations} iterations J {mine['objective']:.5g} against {other['objective']:.5g}, "
        f"training RMSE {mine['train_rmse']:.4f} against {other['train_rmse']:.4f}"
    )
    as_low = next((n for n, at in enumerate(course, 1) if at["objective"] <= other["objective"]), None)
    if as_low is not None:
        seconds = ours["said"]["start"] + as_low * median(ours), iterations * median(theirs)
        measured += (
            f"; J no higher after {as_low}, with its start {seconds[0]:.3g} against {seconds[1]:.3g} s"
        )
    return Figure(f"{name}: no worse", "J no higher, or training RMSE within 0.1 %", measured, met)


def against_lenskit(sections: dict) -> Iterator[Figure]:
    targets = {16: (7.0, "≥ 7×"), 64: (3.6, "≥ 3.6×"), 128: (4.6, "≥ 4.6×")}
    yield from _compared(sections, "exact ALS, 10 M set, against LensKit", "10m", targets, "lenskit")
    short = {64: (5.0, "≥ 5×"), 128: (5.0, "≥ 5×")}
    yield from _compared(sections, "exact ALS, 2 M set, against LensKit", "2m", short, "lenskit")


def against_cmfrec(sections: dict) -> Iterator[Figure]:
    exact = dict.fromkeys((16, 64, 128), (12.0, "≥ 12×"))
    yield from _compared(
        sections, "exact ALS, 10 M set, against cmfrec's exact solver", "10m", exact, "cmfrec", "cholesky"
    )
    inexact = {64: (1 / 0.6, "at most 0.6 of its time"), 128: (1.0, "not slower")}
    yield from _compared(
        sections, "exact ALS, 10 M set, against cmfrec's conjugate gradients", "10m", inexact, "cmfrec", "cg"
    )
    alike = "--solver cg, 10 M set, against cmfrec's conjugate gradients"
    yield from _compared(sections, alike, "10m", inexact, "cmfrec", "cg", "cg")


def to_best(sections: dict) -> Iterator[Figure]:
    """Seconds of fit until the best held-out RMSE that cmfrec's conjugate gradients reach."""
    for rank in (16, 64, 128):
        name = f"fit to the best held-out RMSE of cmfrec's conjugate gradients, 10 M set, rank {rank}"
        ours = rows_reached(sections, "10m", rank, "mfpipe", model="als")
        theirs = rows_reached(sections, "10m", rank, "cmfrec", solver="cg")
        if not (ours and theirs):
            yield Figure(name, "ahead", "not measured in this run", None)
            continue
        best = min(theirs[0]["reached"], key=lambda at: at["held_out_rmse"])
        goal = best["held_out_rmse"]
        each = [_first_within(row, goal) for row in ours]
        it = f"cmfrec {goal:.4f} after {best['iterations']} iterations, {best['seconds']:.3g} s"
        words = "; ".join([*(text for _, text in each), it])
        yield Figure(name, "ahead", words, min(seconds for seconds, _ in each) < best["seconds"])


def _first_within(row: dict, goal: float) -> tuple[float, str]:
    """Seconds until a row's held-out RMSE is no higher than a goal, and that in words."""
    name = way(row["options"])
    for at in row["reached"]:
        if at["held_out_rmse"] <= goal:
            return at["seconds"], f"{name} {at['seconds']:.3g} s, {at['iterations']} iterations"
    least = min(at["held_out_rmse"] for at in row["reached"])
    return float("inf"), f"{name} never, {least:.4f} at best"


def way(options: dict) -> str:
    """A model of mfpipe with the flags that a case changed."""
    flags = [f"--{name} {options[name]}" for name in WAYS if name in options]
    return " ".join([options.get("model") or "als", *flags])


def rows_reached(sections: dict, set_: str, rank: int, system: str, **match) -> list[dict]:
    """Rows of the section `reach`."""
    return [
        row
        for row in sections.get("reach") or []
        if (row["set"], row["rank"], row["system"]) == (set_, rank, system)
        and row.get("reached")
        and all(row["options"].get(k) == v for k, v in match.items())
    ]


def fraction_of_limit(sections: dict) -> Iterator[Figure]:
    for rank, target in ((64, 0.42), (128, 0.55)):
        name = f"share of the arithmetic limit at the sgemm rate, 10 M set, rank {rank}"
        found = [row for row in limits(sections) if (row["set"], row["rank"]) == ("10m", rank)]
        if not found:
            yield Figure(name, f"≥ {100 * target:.0f} %", "not measured in this run", None)
            continue
        share = found[0]["share"]
        measured = f"{100 * share:.1f} %: {found[0]['limit']:.3g} s of {found[0]['seconds']:.3g} s"
        yield Figure(name, f"≥ {100 * target:.0f} %", measured, share >= target)


def limits(sections: dict) -> list[dict]:
    """For each set and rank of the section `peers`, seconds at the sgemm rate and the share reached."""
    roofline = sections.get("roofline")
    found = []
    for need in roofline["needs"] if roofline else []:
        ours = rows(sections, "peers", set=need["set"], rank=need["rank"], system="mfpipe", solver=None)
        if ours:
            threads = str(ours[0]["threads"])
            rates = {str(key): value for key, value in roofline["rates"]["sgemm"].items()}
            rate = rates.get(threads) or rates[max(rates, key=int)]
            limit = need["least"] / rate["median"]
            taken = median(ours[0])
            found.append(need | {"limit": limit, "seconds": taken, "share": limit / taken})
    return found


def from_csv(sections: dict) -> Iterator[Figure]:
    name, target = (
        "CSV to stored model, whole process, 10 M set, rank 32",
        "at most half of the fastest peer's",
    )
    whole = sections.get("whole")
    if not whole or (whole["set"], whole["rank"]) != ("10m", 32) or whole["goal"] is None:
        yield Figure(name, target, "not measured in this run", None)
        return
    ran = [row for row in whole["rows"] if row["seconds"]]
    ours = [row for row in ran if row["system"] == "mfpipe" and row["held_out_rmse"] <= whole["goal"]]
    theirs = [row for row in ran if row["system"] not in ("mfpipe", "libmf")]
    words = "; ".join(_whole_in_words(row) for row in whole["rows"])
    met = None
    if theirs:
        best = min((median(row) for row in ours), default=float("inf"))
        met = best <= 0.5 * min(median(row) for row in theirs)
    yield Figure(f"{name}, to held-out RMSE {whole['goal']:.4f}", target, words, met)


def whole_name(row: dict) -> str:
    """What ran from CSV to stored model."""
    if row["system"] == "mfpipe":
        return f"mfpipe {way(row['options'])}"
    return " ".join(filter(None, (row["system"], row["solver"])))


def _whole_in_words(row: dict) -> str:
    name = whole_name(row)
    if row["seconds"]:
        return f"{name} {median(row):.3g} s ({row['iterations']} iterations)"
    never = f"never comes to it, {row['best']:.4f} at best"
    return f"{name} {row.get('failed') or never}"


def places(sections: dict) -> Iterator[Figure]:
    match = {"set": "10m", "rank": 64}
    threads = rows(sections, "places", cluster="threads", **match)
    serial = rows(sections, "places", cluster="serial", **match)
    name = "two threads against one, 10 M set, rank 64"
    if threads and serial:
        value, text = _ratio(serial[0], threads[0])
        yield Figure(name, "≥ 1.85×", text, value >= 1.85)
    else:
        yield Figure(name, "≥ 1.85×", "not measured in this run", None)
    for partitions in ("8", "16"):
        name = f"local cluster against threads, 10 M set, rank 64, {partitions} partitions"
        local = [
            row
            for row in rows(sections, "places", cluster="local", partitions=partitions, **match)
            if "processes" not in row["options"]
        ]
        if threads and local:
            value, text = _ratio(local[0], threads[0])
            yield Figure(name, "≤ 1.10×", text, value <= 1.10)
        else:
            yield Figure(name, "≤ 1.10×", "not measured in this run", None)


def models(sections: dict) -> Iterator[Figure]:
    for model, target in (("lasso-mf", 2.5), ("biased-als", 1.15)):
        for rank in (16, 64):
            name = f"{model} against als, 10 M set, rank {rank}"
            als = rows(sections, "models", set="10m", rank=rank, model="als")
            other = rows(sections, "models", set="10m", rank=rank, model=model)
            if als and other:
                value, text = _ratio(other[0], als[0])
                yield Figure(name, f"≤ {target:.3g}×", text, value <= target)
            else:
                yield Figure(name, f"≤ {target:.3g}×", "not measured in this run", None)


def memory(sections: dict) -> Iterator[Figure]:
    name = "peak memory in the fit, less that after the blocks are built, 10 M set, rank 64"
    found = rows(sections, "places", set="10m", rank=64)
    if not found:
        yield Figure(name, "< 250 MB", "not measured in this run", None)
        return
    each = {_place(row): row["peak_in_fit"]["max"] / 1e6 for row in found}
    words = "; ".join(f"{place} {size:.0f} MB" for place, size in each.items())
    yield Figure(name, "< 250 MB", words, max(each.values()) < 250)


def _place(row: dict) -> str:
    options = row["options"]
    processes = f" in {options['processes']} processes" if "processes" in options else ""
    return f"{options['cluster']}{processes}, {options['partitions']} partitions"


def homework(sections: dict) -> Iterator[Figure]:
    found = sections.get("homework") or {}
    first, second = (
        "homework data, whole process from the shell",
        "the serial loop, one iteration of the homework",
    )
    if "rows" not in found:
        yield Figure(first, "< 2.5 s", found.get("skipped", "not measured in this run"), None)
        yield Figure(second, "the ratio", found.get("skipped", "not measured in this run"), None)
        return
    ours = next(row for row in found["rows"] if row["system"] == "mfpipe")
    if ours["seconds"]:
        low, high = ours["seconds"]["min"], ours["seconds"]["max"]
        measured = f"{median(ours):.2f} s ({low:.2f} to {high:.2f})"
        yield Figure(first, "< 2.5 s", measured, median(ours) < 2.5)
    else:
        yield Figure(first, "< 2.5 s", ours["failed"], False)
    loop = f"{found['naive']:.3g} s against {1e3 * found['ours']['median']:.3g} ms: {found['ratio']:,.0f}×"
    yield Figure(second, "the ratio", loop, None)


MAKERS: tuple[Callable[[dict], Iterator[Figure]], ...] = (
    against_lenskit, against_cmfrec, to_best, fraction_of_limit, from_csv, places, models, memory, homework,
)  # fmt: skip
