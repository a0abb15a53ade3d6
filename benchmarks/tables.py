"""The tables of a benchmark's results, the same for the HTML report and the page in docs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import must_show
from benchmarks.environments import PEERS_BY_NAME

MB = 1e6


class Table(NamedTuple):
    """A title, what it says in words, its columns and its cells as text."""

    title: str
    words: str
    columns: list[str]
    rows: list[list[str]]


def tables(results: dict) -> list[Table]:
    """All that the results hold, the figures that must be shown first."""
    sections = results["sections"]
    found = [shown(results)]
    for name, make in MAKERS.items():
        if sections.get(name):
            found += make(sections[name], sections)
    return [*found, packages(results), settings(sections)]


def shown(results: dict) -> Table:
    """The figures that must be shown."""
    figures = must_show.figures(results)
    marks = {True: "yes", False: "no", None: "–"}
    return Table(
        "What must be shown",
        f"Every line from one run: `{results['command']}`. Ratios are of medians, with the least and most "
        "that the smallest and largest times allow.",
        ["figure", "target", "measured", "met"],
        [[each.what, each.target, each.measured, marks[each.met]] for each in figures],
    )


def name_of(row: dict) -> str:
    """A system with its solver or model, for people."""
    if row["system"] == "mfpipe":
        return f"mfpipe {must_show.way(row['options'])}"
    solver = {"cholesky": ", exact", "cg": ", 3 conjugate-gradient steps"}
    return PEERS_BY_NAME[row["system"]].title + solver.get(row["options"].get("solver", ""), "")


def seconds(found: dict | None, digits: int = 3) -> str:
    """Median with the smallest and largest, where there is more than one."""
    if not found:
        return "–"
    if found["n"] == 1:
        return f"{found['median']:.{digits}g}"
    return f"{found['median']:.{digits}g} ({found['min']:.{digits}g} to {found['max']:.{digits}g})"


def megabytes(found: dict | None) -> str:
    """The largest, in MB."""
    return "–" if not found else f"{found['max'] / MB:,.0f}"


def sets(rows: list[dict], _: dict) -> Iterator[Table]:
    """What was measured on."""
    yield Table(
        "Sets",
        "Synthetic sets are those of `mfpipe synth` with the parameters given. All systems get the same "
        "training triples, by row number, less the training mean μ; held-out pairs are of known users and "
        "items.",
        ["set", "made by", "held out by", "users", "items", "training", "held out", "median of a user"],
        [
            [
                row["name"],
                " ".join(f"--{key} {value}" for key, value in row["synth"].items())
                if "synth" in row
                else row["files"],
                row["holdout"],
                *(f"{row[key]:,}" for key in ("users", "items", "training", "held_out")),
                f"{row['median_ratings_of_a_user']:g}",
            ]
            for row in rows
        ],
    )


def peers(rows: list[dict], _: dict) -> Iterator[Table]:
    """Every system on the same triples."""
    ours = {
        (row["set"], row["rank"]): row["seconds"]["median"]
        for row in rows
        if row["system"] == "mfpipe" and "solver" not in row["options"] and row.get("seconds")
    }
    cells = []
    for row in rows:
        base = ours.get((row["set"], row["rank"]))
        cells.append([row["set"], str(row["rank"]), name_of(row), *_figures(row, base)])
    yield Table(
        "An iteration, against other packages",
        "Interleaved, float32 where the package has it, the same cores, λ = 0.05 a rating (`count`). Seconds "
        "are of iterations after the first, all runs together. Memory is the most of the whole process tree "
        "above what it was when the ratings were loaded. mfpipe starts from the ratings' singular vectors "
        "(`--init spectral`), which is a part of its `prepare`. J is that of mfpipe's als, evaluated on each "
        "system's own factors; RMSE is in stars. implicit fits another model, one of confidences, so "
        "only its seconds and memory compare.",
        [
            "set", "rank", "system", "s an iteration", "× mfpipe", "prepare s", "peak MB", "iterations",
            "runs", "J", "training RMSE", "held-out RMSE",
        ],
        cells,
    )  # fmt: skip


def _figures(row: dict, base: float | None) -> list[str]:
    if "failed" in row:
        return [f"not run: {row['failed']}", *["–"] * 8]
    quality = row.get("quality") or {}
    times = f"{row['seconds']['median'] / base:.2f}" if base and row["seconds"] else "–"
    judged = [f"{quality[key]:.5f}" if key in quality else "–" for key in QUALITY]
    return [
        seconds(row["seconds"]), times, seconds(row["prepare"]), megabytes(row["peak"]),
        str(row["iterations"]), str(row["repeats"]), *judged,
    ]  # fmt: skip


QUALITY = ("objective", "train_rmse", "held_out_rmse")


def roofline(found: dict, sections: dict) -> Iterator[Table]:
    """The machine's rates, and what share of them an iteration reaches."""
    rates = found["rates"]
    rows = [[f"sgemm, {n} threads", seconds(_scaled(v, 1e9)), "GFLOP/s"] for n, v in rates["sgemm"].items()]
    rows += [
        [f"memory triad, {n} threads", seconds(_scaled(v, 1e9)), "GB/s"] for n, v in rates["triad"].items()
    ]
    panel = rates["sizes"]["ssyrk"]
    rows += [
        [f"ssyrk, {panel} ratings, rank {rank}, 1 thread", seconds(_scaled(v, 1e9)), "GFLOP/s"]
        for rank, v in rates["ssyrk"].items()
    ]
    rows += [
        [f"spotrf, rank {rank}, 1 thread", seconds(_scaled(v, 1e-6)), "µs"]
        for rank, v in rates["spotrf"].items()
    ]
    yield Table("What the machine can do", "Measured in the same run.", ["what", "rate", "unit"], rows)
    yield Table(
        "The arithmetic limit, and the share reached",
        "An exact iteration needs n K² operations for each row of n ratings, and K³/3 to factorise; rows "
        "shorter than the rank need only n² K + n³/3 in the dual form. The limit is the lower number at the "
        "sgemm rate of as many threads. Gathered are the factor rows, once a rating and side.",
        ["set", "rank", "GFLOP, primal", "GFLOP, least", "GB gathered", "limit s", "mfpipe s", "share"],
        [
            [
                row["set"],
                str(row["rank"]),
                *(f"{row[key] / 1e9:.3g}" for key in ("primal", "least", "bytes")),
                f"{row['limit']:.3g}",
                f"{row['seconds']:.3g}",
                f"{100 * row['share']:.1f} %",
            ]
            for row in must_show.limits(sections)
        ],
    )


def _scaled(found: dict, unit: float) -> dict:
    return {key: value if key == "n" else value / unit for key, value in found.items()}


def reach(rows: list[dict], _: dict) -> Iterator[Table]:
    """Held-out RMSE against seconds of fit."""
    cells = []
    for row in rows:
        head = [row["set"], str(row["rank"]), name_of(row)]
        if not row.get("reached"):
            cells.append([*head, row.get("failed", "–"), "–", "–", "–"])
            continue
        best = min(row["reached"], key=lambda at: at["held_out_rmse"])
        course = ", ".join(f"{at['iterations']}: {at['held_out_rmse']:.4f}" for at in row["reached"])
        cells.append(
            [*head, f"{best['held_out_rmse']:.4f}", str(best["iterations"]), f"{best['seconds']:.3g}", course]
        )
    yield Table(
        "Held-out RMSE by iterations",
        "Where a package tells nothing of its iterations, each number is a fit of its own.",
        ["set", "rank", "system", "best", "iterations", "s of fit", "iterations: held-out RMSE"],
        cells,
    )


def whole(found: dict, _: dict) -> Iterator[Table]:
    """From CSV to stored model."""
    if found["goal"] is None:
        return
    yield Table(
        "From CSV to stored model",
        f"Set {found['set']}, rank {found['rank']}: whole processes, interleaved, each with as many "
        f"iterations as bring its held-out RMSE to {found['goal']:.4f}, within 0.5 % of the best "
        "that any package reached.",
        ["system", "iterations", "s", "peak MB", "held-out RMSE", "best at any iteration", "command"],
        [
            [
                must_show.whole_name(row),
                str(row["iterations"] or "never"),
                row.get("failed") or seconds(row["seconds"]),
                f"{row['peak'] / MB:,.0f}" if "peak" in row else "–",
                f"{row['held_out_rmse']:.4f}" if "held_out_rmse" in row else "–",
                f"{row['best']:.4f}",
                f"`{row['command']}`" if "command" in row else "–",
            ]
            for row in found["rows"]
        ],
    )


def _own(title: str, words: str, rows: list[dict], fields: list[str]) -> Table:
    """Cases of mfpipe by some of their options."""
    return Table(
        title,
        words,
        [*fields, "s an iteration", "prepare s", "peak MB", "peak in fit MB", "runs"],
        [
            [
                *(str(row.get(key, row["options"].get(key, "–"))) for key in fields),
                *(
                    [row["failed"], *["–"] * 4]
                    if "failed" in row
                    else [
                        seconds(row["seconds"]),
                        seconds(row["prepare"]),
                        megabytes(row["peak"]),
                        megabytes(row["peak_in_fit"]),
                        str(row["repeats"]),
                    ]
                ),
            ]
            for row in rows
        ],
    )


def places(rows: list[dict], _: dict) -> Iterator[Table]:
    fields = ["set", "rank", "cluster", "processes", "partitions"]
    words = (
        "als, float32, from random rows. A local cluster is one worker inside the process unless worker "
        "processes are given. Peak in fit is the most of all processes less what there was when the blocks "
        "were built."
    )
    yield _own("Where it runs", words, rows, fields)


def models(rows: list[dict], _: dict) -> Iterator[Table]:
    about = "float32, two threads; lasso-mf with λ = 0.01, as at 0.05 all of its factors are zero."
    yield _own("Models", about, rows, ["set", "rank", "model"])


def grid(rows: list[dict], _: dict) -> Iterator[Table]:
    fields = ["set", "model", "rank", "dtype", "cluster", "processes", "partitions"]
    yield _own("Every model, rank, dtype and place", "", rows, fields)


def cost(rows: list[dict], _: dict) -> Iterator[Table]:
    for section, fields in {
        "cost by ratings": ["set", "rank"],
        "cost by rank": ["set", "rank"],
        "cost by partitions": ["set", "rank", "cluster", "partitions"],
    }.items():
        of = [row for row in rows if row["section"] == section]
        yield _own(section.capitalize(), "als, float32.", of, fields)


def homework(found: dict, _: dict) -> Iterator[Table]:
    if "rows" not in found:
        return
    yield Table(
        "The homework's files, whole process",
        f"20 iterations at rank 5, from the shell, compiled cache warm: `{found['command']}`. The serial "
        f"loop (`python -m benchmarks.naive`) takes {found['naive']:.3g} s for one iteration, mfpipe "
        f"{1e3 * found['ours']['median']:.3g} ms. mfpipe checks every line, judges the test file and "
        "stores a version with checksums; the others read with their usual reader, fit, and keep factors.",
        ["system", "s", "peak MB"],
        [
            [
                row["system"],
                row["failed"] or seconds(row["seconds"]),
                f"{row['peak'] / MB:,.0f}" if row["peak"] else "–",
            ]
            for row in found["rows"]
        ],
    )


def overhead(found: dict, _: dict) -> Iterator[Table]:
    yield Table(
        "Overhead at the homework's size",
        f"{found['file']}, {found['ratings']:,} ratings, rank {found['rank']}, {found['dtype']}, "
        f"{found['partitions']} partitions; `python -m benchmarks.overhead`.",
        ["place", "ms an iteration", "ms in kernels"],
        [
            [row["place"], *(seconds(_scaled(row[key], 1e-3)) for key in ("seconds", "kernels"))]
            for row in found["rows"]
        ],
    )


def packages(results: dict) -> Table:
    """Versions, and what could not be run."""
    return Table(
        "Packages",
        "Each in an environment of its own, with all versions pinned in `benchmarks/peers/requirements`.",
        ["package", "version", "run"],
        [[row["title"], row["version"], row["not_run"] or "yes"] for row in results["peers"]],
    )


def settings(sections: dict) -> Table:
    """Exact settings and objectives, once a system and solver."""
    seen: dict[str, dict] = {}
    for row in sections.get("peers") or []:
        if row.get("said"):
            seen.setdefault(name_of(row), row)
    return Table(
        "Settings",
        "As passed, at the first rank measured; the objective is that of the package. Packages run with "
        "OPENBLAS_NUM_THREADS=1 (each of their threads has its own rows) and OMP_NUM_THREADS and "
        "LK_NUM_THREADS at the number of cores they are held to.",
        ["system", "objective", "settings"],
        [
            [
                name,
                row["said"]["objective"],
                ", ".join(f"{key}={value}" for key, value in row["said"]["settings"].items()),
            ]
            for name, row in seen.items()
        ],
    )


MAKERS = {
    "peers": peers,
    "roofline": roofline,
    "reach": reach,
    "whole": whole,
    "places": places,
    "models": models,
    "cost": cost,
    "homework": homework,
    "grid": grid,
    "overhead": overhead,
    "sets": sets,
}
