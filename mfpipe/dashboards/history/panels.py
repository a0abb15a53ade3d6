"""The figures of the history pages, each with what it says in words; a panel is one line in a list here."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from mfpipe.dashboards.history import plots
from mfpipe.dashboards.history.moved import Moved
from mfpipe.dashboards.history.reading import StoredModel, StoredVersion
from mfpipe.page import Panel


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _least(versions: Sequence[StoredVersion], of: str) -> StoredVersion:
    return min(versions, key=attrgetter(of))


def _most(versions: Sequence[StoredVersion], of: str) -> StoredVersion:
    return max(versions, key=attrgetter(of))


def _models_rmse(models: Sequence[StoredModel]) -> str:
    versions = [version for model in models for version in model.intact()]
    if not versions:
        return "There is no version to show yet."
    words = (
        f"{_counted(len(versions), 'version')} of {_counted(len({v.name for v in versions}), 'model')}; "
        "lower is better."
    )
    judged = [version for version in versions if version.test_rmse is not None]
    if judged:
        best = _least(judged, "test_rmse")
        words += f" The lowest is {best.label} with {best.test_rmse:.4f} stars"
        words += "; models are comparable where they were tested on the same records."
    return words


def _models_seconds(models: Sequence[StoredModel]) -> str:
    timed = [v for model in models for v in model.intact() if v.fit_seconds]
    if not timed:
        return "No version says how long its fit took."
    least, most = _least(timed, "fit_seconds"), _most(timed, "fit_seconds")
    return (
        f"From {least.fit_seconds:.3g} s ({least.label}) to {most.fit_seconds:.3g} s ({most.label}); "
        "the axis is logarithmic."
    )


def _rmse(model: StoredModel) -> str:
    judged = [version for version in model.intact() if version.test_rmse is not None]
    if not judged:
        return "There is no version with an RMSE to show."
    first, last, best = judged[0], judged[-1], _least(judged, "test_rmse")
    words = f"On test records {first.test_rmse:.4f} stars in version {first.number}"
    if len(judged) > 1:
        words += f" and {last.test_rmse:.4f} in version {last.number}; the lowest is {best.test_rmse:.4f}"
        words += f" in version {best.number}"
    current = model.version(model.current)
    if current and current.test_rmse is not None:
        words += f". The current version, {current.number}, has {current.test_rmse:.4f} and a ring around it"
    refused = sum(row["decision"] == "refused" and row["rmse"] is not None for row in model.decisions)
    if refused:
        words += f". {_counted(refused, 'refused challenger')} marked ×"
    return words + "."


def _seconds(model: StoredModel) -> str:
    timed = [version for version in model.intact() if version.fit_seconds is not None]
    if not timed:
        return "No version says how long it took."
    least, most = _least(timed, "fit_seconds"), _most(timed, "fit_seconds")
    last = timed[-1]
    return (
        f"The fit of version {last.number} took {last.fit_seconds:.3g} s, all stages "
        f"{last.all_seconds:.3g} s. "
        f"Fits took from {least.fit_seconds:.3g} s (version {least.number}) to {most.fit_seconds:.3g} s "
        f"(version {most.number})."
    )


def _ratings(version: StoredVersion) -> str:
    counts = [(version.data[f"n_{what}"], what) for what in ("ratings", "users", "items")]
    return ", ".join(f"{n:,} {what}" for n, what in counts if n is not None) or "an unknown number of ratings"


def _data(model: StoredModel) -> str:
    versions = model.intact()
    if not versions:
        return "There is no version to show yet."
    words = f"Version {versions[-1].number} was trained on {_ratings(versions[-1])}"
    if len(versions) > 1:
        words += f"; version {versions[0].number} on {_ratings(versions[0])}"
    return words + ". The axis is logarithmic."


def _drift(model: StoredModel) -> str:
    judged = model.judged("drift")
    if not judged:
        return "No retrain has compared its ratings with the current version's yet."
    last = judged[-1]
    shares = {
        what.replace("_", " "): plots.share_of_limit(what, value, last["limits"])
        for what, value in last["drift"].items()
    }
    known = {what: share for what, share in shares.items() if share is not None}
    words = f"{_counted(len(judged), 'retrain')} compared; beyond 1 (dashed), one is refused."
    if known:
        what = max(known, key=known.__getitem__)
        words += (
            f" In the last, of {last['when'][:10]}, {what} went furthest: {known[what]:.0%} of its limit."
        )
    return words


def _gate(model: StoredModel) -> str:
    judged = model.judged("difference")
    if not judged:
        return "The gate has not judged a challenger against a current version yet."
    last = judged[-1]
    low, high = last["difference"]["interval"]
    refused = sum(row["decision"] == "refused" for row in judged)
    return (
        f"{_counted(len(judged), 'challenger')} judged, {refused} refused; one passes where the upper end "
        f"of its interval is below the margin. The last, {last['decision']}: "
        f"{last['difference']['rmse']:+.5f} stars ({low:+.5f} to {high:+.5f}), margin "
        f"{last['difference']['margin']:.5f}."
    )


def _moved(moved: Moved) -> str:
    sampled = f"{moved.pairs:,} of {moved.of:,}" if moved.pairs < moved.of else f"all {moved.pairs:,}"
    return f"On {sampled} {moved.what}, predictions moved by {moved.rms:.4f} stars (root mean square)."


MODELS = [
    Panel("Test RMSE over time", _models_rmse, plots.models_rmse, lambda ms: any(m.intact() for m in ms)),
    Panel(
        "Seconds over time",
        _models_seconds,
        plots.models_seconds,
        lambda ms: any(v.fit_seconds for m in ms for v in m.intact()),
    ),
]

MODEL = [
    Panel("RMSE over time", _rmse, plots.rmse, StoredModel.intact),
    Panel("Seconds over time", _seconds, plots.seconds, lambda m: any(v.seconds for v in m.intact())),
    Panel("Ratings, users and items", _data, plots.data, StoredModel.intact),
    Panel("Data drift", _drift, lambda m: plots.drift(m.judged("drift")), lambda m: m.judged("drift")),
    Panel("Gate", _gate, lambda m: plots.gate(m.judged("difference")), lambda m: m.judged("difference")),
]

COMPARE = [
    Panel("How far predictions moved", _moved, lambda m: plots.moved(m.counts, m.edges), lambda m: True),
]
