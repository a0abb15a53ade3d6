"""Which cases are run: for the figures that must be shown, for everything, or for a quick look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.environments import PEERS_BY_NAME
from benchmarks.measure import Case

# What a run of a case may cost decides how many iterations it gets; the first is not counted.
ITERATIONS = {
    "mfpipe": 6,
    "lenskit": 4,
    "cmfrec-cholesky": 3,
    "cmfrec-cg": 6,
    "implicit-cholesky": 3,
    "implicit-cg": 6,
    "spark": 4,
    "surprise": 3,
    "libmf": 6,
}
SMALL = ("tiny", "100k", "homework")  # sets on which four times as many iterations cost nothing
FEW = {"cmfrec-cholesky": 2, "implicit-cholesky": 2, "lenskit": 3, "surprise": 2}
EXACT = ("lenskit", "cmfrec")  # the fastest of the packages that minimise the same J
LASSO_REGULARIZATION = 0.01  # at the 0.05 of the others every lasso factor is zero, which costs nothing
REACH = {"mfpipe": "1,2,3,4,5,6,8,10,12,15", "lenskit": "1,2,3,4,5,6,8,10"}
STARTS = ({}, {"init-scale": 0.01}, {"init-scale": 0.01, "solver": "cg", "cg-steps": 2})
REACH_BY_FITS = {"cmfrec": "2,3,4,6,8", "spark": "2,4,6,8", "surprise": "5,10,20", "libmf": "5,10,20"}


@dataclass(frozen=True)
class Plan:
    """What a run of the benchmark does.

    A case is repeated until it has taken `most_seconds` in all; a process is stopped after `limit` seconds.
    `groups` are, by section, groups of cases that are interleaved. `reach` are cases whose held-out RMSE is
    watched; `whole` says the set and rank of the runs from CSV to stored model.
    """

    name: str
    repeats: int
    most_seconds: float
    limit: float
    groups: dict[str, list[list[Case]]] = field(default_factory=dict)
    reach: list[Case] = field(default_factory=list)
    whole: dict = field(default_factory=dict)
    machine_ranks: tuple[int, ...] = (16, 64, 128)
    homework_runs: int = 5
    peers: tuple[str, ...] = ()


def ours(set_: str, rank: int, section: str, **options: str | int) -> Case:
    """A case of mfpipe; `threads` and `iterations` among the options are the case's own."""
    threads = int(options.pop("threads", 2))
    iterations = int(options.pop("iterations", ITERATIONS["mfpipe"]))
    flags = tuple((name, str(value)) for name, value in options.items())
    case = Case("mfpipe", set_, rank, iterations, threads, options=flags, section=section)
    lasso = options.get("model") == "lasso-mf"
    return replace(case, regularization=LASSO_REGULARIZATION) if lasso else case


def theirs(name: str, solver: str, set_: str, rank: int, section: str) -> Case:
    """A case of a package compared with."""
    key = f"{name}-{solver}" if solver else name
    iterations = (FEW if rank >= 64 else {}).get(key, ITERATIONS[key]) * (4 if set_ in SMALL else 1)
    options = (("solver", solver),) if solver else ()
    threads = 1 if name == "surprise" else 2
    return Case(name, set_, rank, iterations, threads, options=options, section=section)


def against(set_: str, rank: int, peers: Sequence[str], section: str = "peers") -> list[Case]:
    """Mfpipe and every solver of the packages, to be interleaved."""
    found = [ours(set_, rank, section)]
    if any("cg" in PEERS_BY_NAME[name].solvers for name in peers):
        found.append(ours(set_, rank, section, solver="cg"))
    for name in peers:
        found += [theirs(name, solver, set_, rank, section) for solver in PEERS_BY_NAME[name].solvers]
    return found


def reaching(set_: str, rank: int, peers: Sequence[str], models: Sequence[str] = ("als",)) -> list[Case]:
    """Cases whose held-out RMSE is watched, iteration by iteration."""
    last = int(REACH["mfpipe"].rsplit(",", 1)[-1])
    found = [
        ours(set_, rank, "reach", iterations=last, model=model, at=REACH["mfpipe"], **start)
        for model in models
        for start in STARTS
    ]
    for name in peers:
        at = REACH.get(name) or REACH_BY_FITS.get(name)
        if at is None:
            continue
        solvers = ("cg",) if name == "cmfrec" else PEERS_BY_NAME[name].solvers
        for solver in solvers:
            case = theirs(name, solver, set_, rank, "reach")
            last = int(at.rsplit(",", 1)[-1])
            found.append(replace(case, iterations=last, options=(*case.options, ("at", at))))
    return found


def places(set_: str, rank: int, section: str = "places", **more) -> list[Case]:
    """Mfpipe in every place it can run, from its default start."""
    shared = {"init": "random"} | more
    return [
        ours(set_, rank, section, cluster="serial", partitions=8, threads=1, **shared),
        ours(set_, rank, section, cluster="threads", partitions=8, **shared),
        ours(set_, rank, section, cluster="local", partitions=8, **shared),
        ours(set_, rank, section, cluster="local", partitions=16, **shared),
        ours(set_, rank, section, cluster="local", processes=2, partitions=8, **shared),
    ]


def models(set_: str, rank: int) -> list[Case]:
    """The factor models side by side."""
    return [ours(set_, rank, "models", model=name) for name in ("als", "biased-als", "lasso-mf")]


def grid(set_: str, ranks: Sequence[int]) -> list[list[Case]]:
    """Every model × rank × dtype × place."""
    return [
        places(set_, rank, "grid", model=model, dtype=dtype, iterations=4)
        for rank in ranks
        for dtype in ("float32", "float64")
        for model in ("als", "biased-als", "lasso-mf")
    ]


def cost(sets: Sequence[str], ranks: Sequence[int], partitions: Sequence[int]) -> list[list[Case]]:
    """Seconds and memory against ratings, rank and partitions."""
    last = sets[-1]
    middle = sets[len(sets) // 2]
    return [
        [ours(name, 64, "cost by ratings") for name in sets],
        [ours(middle, rank, "cost by rank") for rank in ranks],
        [
            ours(middle if last == "30m" else last, 64, "cost by partitions", cluster=place, partitions=n)
            for place in ("threads", "local")
            for n in partitions
        ],
    ]


def must_show(set_: str = "10m", short: str = "2m") -> Plan:
    """Only the figures that must be shown."""
    return Plan(
        "must-show",
        repeats=2,
        most_seconds=60,
        limit=300,
        groups={
            "peers": [
                *[against(set_, rank, EXACT) for rank in (16, 64, 128)],
                *[against(short, rank, ("lenskit",)) for rank in (64, 128)],
            ],
            "places": [places(set_, 64)],
            "models": [models(set_, 16), models(set_, 64)],
        },
        reach=[
            *[case for rank in (16, 64, 128) for case in reaching(set_, rank, ("cmfrec",))],
            *reaching(set_, 32, EXACT, ("als", "biased-als")),
        ],
        whole={"set": set_, "rank": 32},
        peers=EXACT,
    )


def full(sets: Sequence[str], ranks: Sequence[int], peers: Sequence[str]) -> Plan:
    """Everything."""
    large = "10m" if "10m" in sets else sets[-1]
    small = [name for name in sets if name != "30m"]
    return Plan(
        "full",
        repeats=3,
        most_seconds=150,
        limit=1800,
        groups={
            "peers": [
                *[against(name, rank, peers) for name in small for rank in ranks],
                *[against(name, 64, [p for p in EXACT if p in peers]) for name in sets if name == "30m"],
            ],
            "places": [places(large, rank) for rank in ranks],
            "models": [models(large, rank) for rank in ranks],
            "grid": grid("2m" if "2m" in sets else sets[0], ranks),
            "cost": cost(
                [n for n in sets if n != "homework"], (4, 8, 16, 32, 64, 128, 256), (2, 4, 8, 16, 32, 64)
            ),
        },
        reach=[
            *[case for rank in ranks if rank != 32 for case in reaching(large, rank, ("cmfrec",))],
            *reaching(large, 32, peers, ("als", "biased-als")),
        ],
        whole={"set": large, "rank": 32},
        machine_ranks=tuple(ranks),
        peers=tuple(peers),
    )


def quick(peers: Sequence[str], set_: str = "100k") -> Plan:
    """Every section, small."""
    return Plan(
        "quick",
        repeats=1,
        most_seconds=10,
        limit=60,
        groups={
            "peers": [against(set_, 16, peers)],
            "places": [places(set_, 16)],
            "models": [models(set_, 16)],
            "grid": [places(set_, 8, "grid", model="biased-als", dtype="float64", iterations=3)],
            "cost": [
                [ours(name, 16, "cost by ratings") for name in ("tiny", set_)],
                [ours(set_, rank, "cost by rank") for rank in (8, 32)],
                [ours(set_, 16, "cost by partitions", partitions=n) for n in (2, 16)],
            ],
        },
        reach=reaching(set_, 16, peers, ("als", "biased-als")),
        whole={"set": set_, "rank": 16},
        machine_ranks=(16, 64),
        homework_runs=2,
        peers=tuple(peers),
    )
