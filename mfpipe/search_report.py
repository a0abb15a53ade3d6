"""HTML reports of `path` and `tune`, made of what their `--json` prints."""

from __future__ import annotations

from pathlib import Path

from mfpipe import plots
from mfpipe.page import Panel, page, write_page
from mfpipe.tables import largest_in_words

PATH_PANELS = [
    Panel(
        "RMSE by λ",
        lambda found: (
            "On validation ratings it is lowest, "
            f"{_best(found)['validation_rmse']:.4f} stars, at λ = {found['best']:.4g} (dashed); "
            f"at the smallest λ, {found['path'][0]['regularization']:.4g}, it is "
            f"{found['path'][0]['validation_rmse']:.4f}, with {found['path'][0]['train_rmse']:.4f} on the "
            "training ratings."
        ),
        lambda found: plots.path_rmse(found["path"], found["best"]),
    ),
    Panel(
        "Exact zeros by λ",
        lambda found: (
            f"{100 * found['path'][0]['sparsity']:.1f} % of the factors are exactly zero at the smallest λ, "
            f"{100 * found['path'][-1]['sparsity']:.1f} % at the largest fitted."
        ),
        lambda found: plots.path_zeros(found["path"], found["best"]),
    ),
    Panel(
        "Norms of the factors by λ",
        lambda found: (
            f"Of all user factors {found['path'][0]['user_norm']:.4g} at the smallest λ and "
            f"{found['path'][-1]['user_norm']:.4g} at the largest fitted; of all item factors "
            f"{found['path'][0]['item_norm']:.4g} and {found['path'][-1]['item_norm']:.4g}."
        ),
        lambda found: plots.path_norms(found["path"], found["best"]),
    ),
]

TUNE_PANELS = [
    Panel(
        "Validation RMSE by iterations",
        lambda found: (
            "After "
            + "; after ".join(
                f"{rung['iterations']} iterations: the best of {rung['candidates']} has "
                f"{rung['validation_rmse']:.4f}"
                for rung in found["schedule"]
            )
            + " stars."
        ),
        lambda found: plots.rungs(found["candidates"]),
    ),
    Panel(
        "Validation RMSE by λ when last judged",
        lambda found: (
            f"The best is rank {found['best']['rank']} with {found['best']['weighting']} weighting at "
            f"λ = {found['best']['regularization']:.4g}: {found['best']['validation_rmse']:.4f} stars."
        ),
        lambda found: plots.candidates(found["candidates"]),
    ),
]


def _best(found: dict) -> dict:
    return next(row for row in found["path"] if row["regularization"] == found["best"])


def write_path_report(found: dict, path: Path) -> None:
    """Write the report of `mfpipe.regularization.path`; StoreError if it cannot be written."""
    columns = {
        "λ": lambda row: f"{row['regularization']:.5g}",
        "objective": lambda row: f"{row['objective']:.8g}",
        "train RMSE": lambda row: f"{row['train_rmse']:.4f}",
        "validation RMSE": lambda row: f"{row['validation_rmse']:.4f}",
        "zeros": lambda row: f"{100 * row['sparsity']:.1f} %",
        "user norm": lambda row: f"{row['user_norm']:.4g}",
        "item norm": lambda row: f"{row['item_norm']:.4g}",
        "iterations": lambda row: row["n_iter"],
        "converged": lambda row: "yes" if row["converged"] else "no",
        "collapsed": lambda row: "yes" if row["collapsed"] else "no",
        "seconds": lambda row: f"{row['seconds']:.3f}",
    }
    within, params = found["one_standard_error"], found["params"]
    ending = "."
    if within:
        ending = f"; the largest λ within one standard error of it is {within['regularization']:.4g}."
    summary = (
        f"{found['model']} of rank {params['rank']} with {params['weighting']} weighting at "
        f"{len(found['path'])} λ; {largest_in_words(found)}. The lowest "
        f"validation RMSE is {_best(found)['validation_rmse']:.4f} stars at λ = {found['best']:.4g}" + ending
    )
    _write("Regularization path", "Every λ", summary, columns, found["path"], PATH_PANELS, found, path)


def write_tune_report(found: dict, path: Path) -> None:
    """Write the report of `mfpipe.halving.tune`; StoreError if it cannot be written."""
    columns = {
        "weighting": lambda row: row["weighting"],
        "rank": lambda row: row["rank"],
        "λ": lambda row: f"{row['regularization']:.5g}",
        "place": lambda row: row["place"] or "–",
        "rungs": lambda row: len(row["rungs"]),
        "iterations": lambda row: row["rungs"][-1]["n_iter"],
        "train RMSE": lambda row: f"{row['rungs'][-1]['train_rmse']:.4f}",
        "validation RMSE": lambda row: f"{row['rungs'][-1]['validation_rmse']:.4f}",
        "converged": lambda row: "yes" if row["converged"] else "no",
        "collapsed": lambda row: "yes" if row["collapsed"] else "no",
        "seconds": lambda row: f"{row['seconds']:.3f}",
    }
    best, spent = found["best"], found["iterations"]
    summary = (
        f"{found['model']}: {len(found['candidates'])} candidates, one in {found['factor']} kept at each "
        f"rung. The best is rank {best['rank']} with {best['weighting']} weighting at λ = "
        f"{best['regularization']:.4g}, with a validation RMSE of {best['validation_rmse']:.4f} stars after "
        f"{best['n_iter']} iterations. It took {spent['spent']:,} iterations in all; without halving it "
        f"could have been {spent['without_halving']:,}."
    )
    rows = sorted(found["candidates"], key=_standing)
    _write("Successive halving", "Every candidate", summary, columns, rows, TUNE_PANELS, found, path)


def _standing(row: dict) -> tuple[int, float]:
    """The further a candidate came the higher, and among equals the one that was judged better."""
    return -len(row["rungs"]), row["rungs"][-1]["validation_rmse"]


def _write(
    title: str, caption: str, summary: str, columns: dict, rows: list, panels, found: dict, path: Path
) -> None:
    html = page(
        "search.html",
        panels,
        found,
        title=title,
        summary=summary,
        notes=found["notes"],
        columns=list(columns),
        caption=caption,
        rows=[[cell(row) for cell in columns.values()] for row in rows],
        stages=found["timings"],
        command=found["command"],
        data=found["data"],
    )
    write_page(html, path)
