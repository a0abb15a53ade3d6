"""The panels of a version's report: each is one entry of `PANELS`, and a function that draws it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mfpipe import diagnosis, plots, report_plots
from mfpipe.page import Panel
from mfpipe.report_data import FACTORS, HISTORY, METRICS, TIMINGS, Stored
from mfpipe.report_words import count_label, day, interval

CONVERGENCE, ERRORS, RANKING, FACTOR, TIME = (
    "How it converged",
    "Where it errs",
    "Its lists",
    "Its factors",
    "Where the time went",
)
Lacks = Callable[[Stored], str | None]


def _of(file: str) -> Lacks:
    return lambda stored: stored.lacks(file)


def _iterated(stored: Stored) -> str | None:
    if missing := stored.lacks(FACTORS) or stored.lacks(HISTORY):
        return missing
    if not stored.has_factors:
        return f"{stored.manifest['model']} is not fitted by iterations"
    return None if stored.iterations else "no iteration was run"


def _factored(stored: Stored) -> str | None:
    if missing := stored.lacks(FACTORS):
        return missing
    return None if stored.has_factors else f"{stored.manifest['model']} has no factors"


def _timed(stored: Stored) -> str | None:
    if missing := stored.lacks(TIMINGS):
        return missing
    return None if stored.timings["iterations"] else "no iteration was run"


def _threaded(stored: Stored) -> str | None:
    known = "threads" in stored.timings
    return _timed(stored) or (
        None if known else "this version does not say on how many threads it was fitted"
    )


def _dated(stored: Stored) -> str | None:
    if missing := stored.lacks(diagnosis.FILE):
        return missing
    return None if stored.diagnosis["by_time"] else "the test records have no times"


def _listed(stored: Stored) -> str | None:
    if missing := stored.lacks(diagnosis.FILE):
        return missing
    return None if stored.diagnosis["ranking"]["users"] else "no known user has a relevant test record"


def _between(values: list[float], digits: str = ".6g") -> str:
    return f"from {values[0]:{digits}} to {values[-1]:{digits}}"


def _extremes(rows: list[dict], labels: list[str], phrase: str) -> str:
    """The best and the worst slice in words, of those with an interval where there are such."""
    known = [row["rmse_interval"] is not None for row in rows]
    told = [
        (row["rmse"], f"{phrase.format(label)}, {row['rmse']:.4f} stars ({interval(row['rmse_interval'])})")
        for row, label, sure in zip(rows, labels, known, strict=True)
        if sure or not any(known)
    ]
    if len(told) == 1:
        return f"Only {told[0][1]}."
    return f"Lowest {min(told)[1]}; highest {max(told)[1]}."


def _sliced(
    title: str, key: str, label: Callable[[dict], str], column: str, phrase: str, lacks: Lacks
) -> Panel:
    """RMSE by slices of the test records; `phrase` says one of them within a sentence."""

    def labels(stored: Stored) -> list[str]:
        return [label(row) for row in stored.diagnosis[key]]

    return Panel(
        title,
        lambda s: f"{_extremes(s.diagnosis[key], labels(s), phrase)} Dashed: all test records.",
        lambda s: report_plots.slices(
            s.diagnosis[key], labels(s), column, s.diagnosis["all"]["rmse"], column
        ),
        lacks=lacks,
        section=ERRORS,
    )


def _decrease(stored: Stored) -> str:
    before, now = stored.history["objective"][-2:]
    return (
        f"The last iteration lowered it by the share {(before - now) / before:.2g}; "
        f"the tolerance (dashed) is {stored.manifest['params']['tol']:g}."
    )


def _rmse(stored: Stored) -> str:
    words = f"On training ratings {_between(stored.history['train_rmse'], '.4f')} stars"
    test = stored.history["test_rmse"]
    return words + (f", on test records {_between(test, '.4f')}." if test[0] is not None else ".")


def _calibrated(stored: Stored) -> str:
    rows, ends = stored.diagnosis["calibration"], stored.diagnosis["predicted"]
    off = max(rows, key=lambda row: abs(row["predicted"] - row["true"]))
    return (
        f"On the dashed line, predictions are right on average. Farthest off: {off['predicted']:.2f} stars "
        f"predicted, {off['true']:.2f} true. Predictions lie between {ends['least']:.2f} and "
        f"{ends['largest']:.2f}."
    )


def _metrics(stored: Stored) -> list[dict]:
    found = stored.diagnosis["ranking"]
    names = {"recall": "recall", "ndcg": "NDCG", "mrr": "MRR"}
    return [
        {"name": f"{name}@{found['n']}", "value": found[key], "interval": (found["intervals"] or {}).get(key)}
        for key, name in names.items()
    ]


def _ranking(stored: Stored) -> str:
    found = stored.diagnosis["ranking"]
    drawn = f", drawn from {found['drawn_from']:,}" if found["drawn_from"] else ""
    return (
        f"Over {found['users']:,} users{drawn}, whose test records of {found['relevant']:.4g} stars or more "
        f"are relevant. {100 * found['catalogue']:.1f} % of the items are in some of these lists; novelty "
        f"{found['novelty']:.2f} bits."
    )


def _sizes(stored: Stored, side: str) -> str:
    rows = stored.factors[side]
    norms = np.linalg.norm(rows, axis=1)
    return (
        f"Median {np.median(norms):.4g}, largest {norms.max(initial=0.0):.4g}. "
        f"{100 * float((rows == 0).mean()):.1f} % of the {side} factors are exactly zero."
    )


def _sized(side: str) -> Panel:
    """Norms of one side's rows."""
    return Panel(
        f"Norms of {side} factors",
        lambda s: _sizes(s, side),
        lambda s: plots.norms(s.factors[side], side),
        lacks=_factored,
        section=FACTOR,
    )


def _strength(stored: Stored) -> str:
    user, item = stored.norms["user"], stored.norms["item"]
    strength = user * item
    if not strength.any():
        return "All are zero."
    used = float(strength.sum() ** 2 / (strength**2).sum())
    ratio = float(np.sqrt((user**2).sum() / (item**2).sum()))
    return (
        f"By their strengths (the products of both norms), the {len(user)} factors count as {used:.1f} equal "
        f"ones. All user factors together have {ratio:.3g} times the norm of all item factors."
    )


def _partitions(stored: Stored) -> str:
    each = " and ".join(f"{ratio:.2f} on the {side} side" for side, ratio in stored.imbalance.items())
    return f"The median over all iterations. The slowest takes this many times the mean: {each}."


def _efficiency(stored: Stored) -> str:
    each = " and ".join(
        f"{100 * float(np.median(shares)):.0f} % ({side})" for side, shares in stored.efficiency.items()
    )
    threads = stored.timings["threads"]
    return (
        f"The share of the time of {threads} thread{'s' if threads > 1 else ''} that was spent on rows; "
        f"the rest is waiting and sending. Median {each}."
    )


def _stages(stored: Stored) -> dict[str, float]:
    return {name.replace("_", " "): s for name, s in stored.timings["stages"].items() if name != "total"}


PANELS = [
    Panel(
        "Every system on the same test records",
        lambda s: "; ".join(f"{row['label']} {row['test_rmse']:.4f}" for row in s.systems) + " stars.",
        lambda s: plots.systems(s.systems),
        lambda s: bool(s.systems),
        section="Against other systems",
    ),
    Panel(
        "Objective",
        lambda s: f"It went {_between(s.history['objective'])} in {s.iterations} iterations.",
        lambda s: plots.objective(s.history),
        lacks=_iterated,
        section=CONVERGENCE,
    ),
    Panel(
        "Decrease of the objective",
        _decrease,
        lambda s: report_plots.decrease(s.history["objective"], s.manifest["params"]["tol"]),
        lambda s: s.iterations > 1,
        _iterated,
        CONVERGENCE,
    ),
    Panel("RMSE by iteration", _rmse, lambda s: plots.rmse(s.history), lacks=_iterated, section=CONVERGENCE),
    _sliced(
        "RMSE by number of ratings of the user",
        "by_user_count",
        count_label,
        "training ratings of the user",
        "for {} training ratings",
        _of(diagnosis.FILE),
    ),
    _sliced(
        "RMSE by number of ratings of the item",
        "by_item_count",
        count_label,
        "training ratings of the item",
        "for {} training ratings",
        _of(diagnosis.FILE),
    ),
    _sliced("RMSE by time", "by_time", lambda row: day(row["begin"]), "time, from", "from {} on", _dated),
    _sliced(
        "RMSE by true rating",
        "by_rating",
        lambda row: f"{row['rating']:g}",
        "stars",
        "for {} stars",
        _of(diagnosis.FILE),
    ),
    Panel(
        "Calibration",
        _calibrated,
        lambda s: report_plots.calibration(s.diagnosis["calibration"]),
        lacks=_of(diagnosis.FILE),
        section=ERRORS,
    ),
    Panel(
        "Residuals of the test records",
        lambda s: f"RMSE {s.metrics['rmse']:.4f} and mean absolute error {s.metrics['mae']:.4f} stars.",
        lambda s: plots.residuals(s.metrics["residuals"]),
        lacks=_of(METRICS),
        section=ERRORS,
    ),
    Panel(
        "Ranking quality",
        _ranking,
        lambda s: report_plots.ranking(_metrics(s)),
        lacks=_listed,
        section=RANKING,
    ),
    _sized("user"),
    _sized("item"),
    Panel(
        "Strength and balance of factors",
        _strength,
        lambda s: report_plots.components(s.norms, s.zeros),
        lacks=_factored,
        section=FACTOR,
    ),
    Panel(
        "Seconds by stage",
        lambda s: f"{sum(_stages(s).values()):.3f} s in all, without storing.",
        lambda s: report_plots.stages(_stages(s)),
        lacks=_of(TIMINGS),
        section=TIME,
    ),
    Panel(
        "Seconds by half-step",
        lambda s: f"The fit took {s.timings['stages']['fit']:.3f} s.",
        lambda s: plots.half_steps(s.history),
        lacks=lambda s: _iterated(s) or _timed(s),
        section=TIME,
    ),
    Panel(
        "Seconds by partition",
        _partitions,
        lambda s: plots.partitions(s.timings["iterations"]),
        lacks=_timed,
        section=TIME,
    ),
    Panel(
        "Parallel efficiency",
        _efficiency,
        lambda s: report_plots.efficiency(s.efficiency),
        lacks=_threaded,
        section=TIME,
    ),
]
