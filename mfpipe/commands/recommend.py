"""Commands that answer questions about users and items: recommend, similar, explain."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mfpipe.arguments import (
    add_columns,
    add_json,
    add_model_name,
    add_place,
    add_store,
    columns_from,
    ids_from,
    place_from,
)
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer


def register(command) -> None:
    asking = (add_model_name, add_store, add_json)

    recommend = command("recommend", _recommend, "the best items for users", *asking, add_columns, add_place)
    recommend.set_defaults(cluster="threads")
    who = recommend.add_argument_group("for whom")
    who.add_argument(
        "--user", nargs="+", metavar="ID", help="these users (--user=-ID for one that begins with -)"
    )
    who.add_argument("--all", action="store_true", help="every user of the model; needs -o")
    who.add_argument(
        "--ratings",
        nargs="+",
        metavar="FILE",
        help="the users of these files, from their ratings there alone",
    )
    what = recommend.add_argument_group("what")
    what.add_argument("-n", type=int, default=10, metavar="N", help="items a user (default: %(default)s)")
    what.add_argument(
        "--include-seen", action="store_true", help="also items that the user rated in training"
    )
    what.add_argument("--seen", nargs="+", metavar="FILE", help="pairs of user and item to leave out besides")
    what.add_argument("--allow", metavar="FILE", help="only these items, one id a line")
    what.add_argument("--deny", metavar="FILE", help="none of these items, one id a line")
    what.add_argument(
        "--min-support", type=int, default=0, metavar="K", help="only items with at least K training ratings"
    )
    what.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="D",
        help="from 0 (score alone) to 1: how much likeness to items already chosen counts",
    )
    recommend.add_argument("-o", "--output", type=Path, metavar="OUT.parquet")

    similar = command("similar", _similar, "the nearest items or users by their factors", *asking)
    similar.add_argument("--item", nargs="+", metavar="ID")
    similar.add_argument("--user", nargs="+", metavar="ID")
    similar.add_argument("-n", type=int, default=10, metavar="N", help="default: %(default)s")

    explain = command("explain", _explain, "the user's own ratings behind a prediction", *asking)
    explain.add_argument("--user", required=True, metavar="ID")
    explain.add_argument("--item", required=True, metavar="ID")


def _recommend(options, printer: Printer) -> None:
    from mfpipe import rated
    from mfpipe.predictions import read_ids
    from mfpipe.recommend import Recommender, Rules, write_all, write_some
    from mfpipe.store import Store, parse_name
    from mfpipe.tables import show_recommendations
    from mfpipe.topn import require_count

    require_count(options.n)
    rules = Rules(options.include_seen, None, None, options.min_support, options.diversity)
    columns, place = columns_from(options), place_from(options)
    users = None if options.user is None else ids_from(options.user, "user")
    _check_whom(options)
    name = parse_name(options.name)
    lists = {key: read_ids(path) for key in ("allow", "deny") if (path := getattr(options, key)) is not None}
    version = Store(options.store).version(*name)
    fitted = version.load() if options.include_seen else rated.load(version)
    seen = _seen(fitted, options.seen, columns) if options.seen else None
    recommender = Recommender(fitted, options.n, dataclasses.replace(rules, **lists), seen)
    record: dict = {"name": version.name, "version": version.number, "model": fitted.model.name}
    if options.all:
        rows = write_all(recommender, options.output, **place.settings_of_calls())
        record |= {"users": len(fitted.users), "rows": rows, "output": str(options.output)}
    else:
        ids, found, left_out = _asked(recommender, users, options.ratings, columns)
        if options.ratings:
            record["left_out"] = left_out
        if options.output:
            rows = write_some(recommender, options.output, ids, found)
            record |= {"users": len(ids), "rows": rows, "output": str(options.output)}
        else:
            record["users"] = recommender.records(ids.to_pylist(), found)
            if len(ids) == 1:
                record |= record["users"][0]
    printer.result(record, show_recommendations)


def _check_whom(options) -> None:
    if options.all and (options.user or options.ratings):
        raise ParameterError("--all: not with --user or --ratings")
    if options.all and not options.output:
        raise ParameterError("--all: needs -o OUT.parquet")
    if not (options.all or options.user or options.ratings):
        raise ParameterError("--user, --ratings or --all: say for whom")


def _seen(fitted, inputs, columns):
    import numpy as np

    from mfpipe import rated
    from mfpipe.predictions import read_pairs

    pairs = [
        (fitted.users.rows(users), fitted.items.rows(items)) for users, items in read_pairs(inputs, columns)
    ]
    users, items = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    return rated.pairs_block(users, items, len(fitted.users))


def _asked(recommender, users, files, columns):
    """Ids, recommendations for them, and how many ratings of the files are of items not in the model."""
    import pyarrow as pa

    from mfpipe.folding import fold_in
    from mfpipe.ratings import Rules, ingest

    if not files:
        ids = pa.array(users, pa.string())
        return ids, recommender.for_users(ids), 0
    ratings, _ = ingest(files, Rules(columns))
    if users is not None:
        wanted = ratings.users.rows(pa.array(users, pa.string()))
        if (wanted < 0).any():
            missing = users[int((wanted < 0).argmax())]
            raise ParameterError(f"--user {missing!r}: has no rating in the files of --ratings")
        mine = (ratings.user[:, None] == wanted).any(axis=1)
        ratings = ratings.subset(mine)
    folded = fold_in(recommender.fitted, ratings)
    return folded.ids, recommender.for_folded(folded), folded.left_out


def _similar(options, printer: Printer) -> None:
    from mfpipe.similar import Similar
    from mfpipe.store import Store, parse_name
    from mfpipe.tables import show_similar
    from mfpipe.topn import require_count

    require_count(options.n)
    if (options.item is None) == (options.user is None):
        raise ParameterError("--item or --user: give one of them")
    side = "item" if options.item else "user"
    ids = ids_from(getattr(options, side), side)
    version = Store(options.store).version(*parse_name(options.name))
    fitted = version.load()
    found = Similar(fitted, side).records(ids, options.n)
    record = {"name": version.name, "version": version.number, "model": fitted.model.name, "similar": found}
    if len(found) == 1:
        record |= found[0]
    printer.result(record, show_similar)


def _explain(options, printer: Printer) -> None:
    from mfpipe import rated
    from mfpipe.explain import record
    from mfpipe.store import Store, parse_name
    from mfpipe.tables import show_explanation

    (user,), (item,) = ids_from([options.user], "user"), ids_from([options.item], "item")
    version = Store(options.store).version(*parse_name(options.name))
    about = {"name": version.name, "version": version.number}
    printer.result(about | record(rated.load(version), user, item), show_explanation)
