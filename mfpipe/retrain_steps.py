"""The steps of a retrain, in the order in which they are called; `mfpipe.retraining` holds the lock."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mfpipe import decisions, runs
from mfpipe.champion import Champion
from mfpipe.drift import drift, too_far
from mfpipe.errors import StoreError
from mfpipe.executors import executor
from mfpipe.fit import State
from mfpipe.fitted import FittedModel
from mfpipe.gate import Judged, judge, user_item_average
from mfpipe.job import Prepared, read_ratings
from mfpipe.models import FactorModel, UserItemMean
from mfpipe.models.base import Factors
from mfpipe.orders import order_of, other_machine
from mfpipe.pipeline import Trained, compile_kernels, fit_and_evaluate, models_from, publish, quarantine_file
from mfpipe.ratings import Ratings
from mfpipe.store import Store
from mfpipe.version import Version
from mfpipe.warm_start import fits, solve_touched, warm_start

log = logging.getLogger(__name__)

SAME = ("model", "params", "sha256", "retrain")  # of two orders that have the same outcome


class Steps:
    """One retrain. Each step may be called again after it failed, and goes on from where it was.

    Parameters
    ----------
    request : mfpipe.retraining.Request
    store : Store
    run : str
        Its id, unless it goes on with an interrupted one.
    on_iteration, stage
        See `mfpipe.pipeline.train`.
    """

    def __init__(self, request, store: Store, run: str, on_iteration, stage):
        self.request, self.store, self.run = request, store, run
        self.on_iteration, self.stage = list(on_iteration), stage
        self.timings: dict[str, float] = {}
        self.decision, self.words, self.forced = "", "", False
        self.version: str | None = None
        self.drift: dict | None = None
        self.gate: dict | None = None
        self.trained: Trained | None = None
        self.start: dict[str, Any] = {"how": "cold"}
        self._held = ExitStack()
        self._order: runs.Run | None = None

    def __enter__(self) -> Steps:
        self.champion = Champion.of(self.store, self.request.name)
        (self.model,) = models_from([self._model_name()], self._params())
        return self

    def __exit__(self, *failed) -> None:
        self._held.__exit__(*failed)

    def _model_name(self) -> str:
        if self.request.model:
            return self.request.model
        return self.champion.manifest["model"] if self.champion else "als"

    def _params(self) -> dict[str, Any]:
        same = self.champion and self.champion.manifest["model"] == self._model_name()
        had = self.champion.manifest["params"] if self.champion and same else {}
        return had | self.request.params

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began

    def ingest(self) -> dict:
        """Read the ratings, and hold out the rows that both systems are judged on."""
        with self._timed("ingest"):
            self.stage("reading ratings")
            began = time.perf_counter()
            self.ratings, report = read_ratings(self.request.data, quarantine_file(self.store))
            holdout = self.request.data.split_by()
            newer_than = self.champion and self.champion.newer_than(holdout)
            train, test = holdout.split(self.ratings, newer_than)
            about = self.request.data.about() | {"ingest": report}
            about["holdout"] = str(holdout)
            seconds = time.perf_counter() - began
            self.prepared = Prepared(train, test, about, train.fingerprint(), seconds)
        return {"ratings": len(train), "held_out": len(test), "rejected": report["rejected"]}

    def compare_data(self) -> bool:
        """Hold the data against the champion's; False where that already decides: refused, or nothing new."""
        champion = self.champion
        if champion is None:
            return True
        with self._timed("compare"):
            before, now = champion.judged["data"], self.prepared.data()
            self.drift = drift(before, now, champion.fitted, self.prepared.ratings)
            faults = too_far(self.drift, self.request.limits)
        seen = champion.may_have_seen(self.request.data.split_by())
        if faults or seen:
            return self._refuse("; ".join(filter(None, [*faults, seen])))
        return not self._nothing_new(champion)

    def _nothing_new(self, champion: Champion) -> bool:
        if self.request.force or self.request.refit or self.request.cold_start:
            return False
        had = champion.judged
        same = had["data"]["sha256"] == self.prepared.sha256 and had["model"] == self.model.name
        if not (same and had["params"] == self.model.params and had["converged"]):
            return False
        self.decision = "kept"
        self.words = "the training ratings and the parameters are the champion's, and it had converged"
        return True

    def _refuse(self, words: str) -> bool:
        """Refuse, unless forced; whether to go on all the same."""
        self.decision = "refused"
        self.words = "; ".join(filter(None, (self.words, words)))
        self.forced = self.request.force
        if self.forced:
            log.warning("--force: goes on although refused: %s", words)
        return self.forced

    def train(self) -> dict:
        """Fit the challenger, from the champion's factors where that is possible and wanted."""
        with self._timed("compile"):
            self.stage("compiling kernels, or loading them from the cache")
            compile_kernels(self.model)
        with self._timed("start"):
            factors = self._starting_factors()
        run, state = self._run()
        self.stage(f"fitting {self.model.name} to {len(self.prepared.ratings):,} ratings")
        began = time.perf_counter()
        with executor(self.prepared.ratings, self.model.storage, **self.request.place.settings()) as where:
            self.timings["cluster"] = time.perf_counter() - began
            keep = run.keep if run else None
            with self._timed("fit"):
                self.trained = fit_and_evaluate(
                    self.model,
                    self.prepared,
                    where,
                    self.on_iteration,
                    state,
                    keep,
                    factors,
                    self.request.name,
                    self.store,
                )
        for message in self.trained.fit.warnings:
            log.warning(message)
        return {"iterations": self.trained.fit.n_iter, "objective": self.trained.fit.objective}

    def _starting_factors(self) -> Factors | None:
        champion, model = self.champion, self.model
        if champion is None or self.request.cold_start or not isinstance(model, FactorModel):
            return None
        if not fits(champion.fitted.model, model):
            why = f"{champion.label} is another model, or of another rank"
        else:
            why = champion.may_have_seen(self.request.data.split_by()) or ""
        if why:
            self.start = {"how": "cold", "why": why}
            self.stage(f"cold start: {why}")
            return None
        start = warm_start(champion.fitted, model, self.prepared.ratings)
        how = "update" if self.request.update else "warm"
        self.start = {"how": how, "from": champion.label, "new": start.new, "touched": start.touched}
        if not self.request.update:
            return start.factors
        self.stage(f"solving {sum(start.touched.values()):,} rows that new ratings touch")
        return solve_touched(champion.fitted, model, self.prepared.ratings, start)

    def _run(self) -> tuple[runs.Run | None, State | None]:
        """The run to write checkpoints to, and the state that it had reached."""
        if self._order:
            return self._order, self._order.state()
        request = self.request
        if not request.checkpoints.wanted:
            log.warning("checkpoints are off: if it is interrupted, this fit begins again from nothing")
            return None, None
        sums, place = self.prepared.sums(), request.place
        order = order_of(request.data, self.model, request.name, place, True, request.checkpoints, sums) | {
            "retrain": {"champion": self.champion and self.champion.number, **request.options()}
        }
        order = json.loads(json.dumps(order))
        left = runs.interrupted_like(self.store.path, order, SAME)
        if left is None:
            self._order = self._held.enter_context(runs.started(self.store.path, order, self.run))
            self.run = self._order.id
            self.stage(f"run {self.run}: a checkpoint {request.checkpoints}")
            return self._order, None
        self._order = self._held.enter_context(runs.reopened(self.store.path, left))
        self.run, state = left, self._order.state()
        elsewhere = other_machine(self._order.order)
        if elsewhere:
            log.warning("%s", elsewhere)
        self.stage(f"run {left} was interrupted: going on from iteration {state.iteration if state else 0}")
        return self._order, state

    def evaluate(self) -> dict:
        """Challenger, champion and user-item average on the same held-out rows."""
        assert self.trained
        test, pairs = self.prepared.test, self.prepared.pairs
        with self._timed("evaluate"):
            self.challenger = _judged(self.trained.fitted, test)
            self.average = user_item_average(self.trained.fitted.baseline, pairs.users, pairs.items)
            self.rival = _judged(self.champion.fitted, test) if self.champion else None
        return {"rows": len(test), "rmse": self.trained.metrics["rmse"]}

    def judge(self) -> bool:
        """Decide; whether the challenger is to be published."""
        assert self.trained
        self.stage("judging the challenger")
        with self._timed("gate"):
            self.gate = judge(
                self.prepared.test.user,
                self.prepared.test.rating,
                self.challenger,
                self.average,
                self.rival,
                self.request.rules,
                self.trained.fit.collapsed,
                isinstance(self.model, UserItemMean),
            )
        if self.gate["passed"]:
            return True
        if not self.gate["checks"][0]["passed"]:
            self.words, self.decision, self.forced = "predictions are not finite", "refused", False
            return False
        failed = [check for check in self.gate["checks"] if not check["passed"]]
        return self._refuse("; ".join(f"{check['check']}: no ({check['words']})" for check in failed))

    def publish(self) -> dict:
        """Store the challenger and make it current, refitted on all rows first if that was asked for."""
        assert self.trained
        self.decision = "published"
        self.words = f"forced although refused: {self.words}" if self.forced else self._why_published()
        replacing = self.champion.number if self.champion else None
        if self.request.refit:
            evaluated = self._store(self.trained, self.prepared, {"evaluated_only": True}, False, replacing)
            self.stage(f"refitting on all {len(self.ratings):,} ratings")
            with self._timed("refit"):
                trained, prepared = self._refitted(self.trained)
            stored = self._store(trained, prepared, {}, True, replacing, evaluated.number)
        else:
            stored = self._store(self.trained, self.prepared, {}, True, replacing)
        self.version = stored.number
        self._drop_old_versions(stored)
        return {"version": stored.number, "path": str(stored.path)}

    def _why_published(self) -> str:
        assert self.gate
        if self.champion is None:
            return "the first version; better than the user-item average"
        return next(c["words"] for c in self.gate["checks"] if c["check"] == "not worse than the champion")

    def _store(self, trained, prepared, more: dict, current: bool, replacing, evaluated_as=None) -> Version:
        began = time.perf_counter()
        self.stage("storing")
        trained.timings = self.timings | {"total": sum(self.timings.values())}
        about: dict[str, Any] = {"retrain": self._record() | more}
        if evaluated_as:
            about["evaluated_as"] = evaluated_as
        run = self.run if not evaluated_as else f"{self.run}/refit"
        stored = publish(
            trained, prepared, self.request.name, self.store, self.request.place, current, None, run, about,
            replacing,
        )  # fmt: skip
        self.timings["store"] = self.timings.get("store", 0.0) + time.perf_counter() - began
        return stored

    def _refitted(self, trained: Trained) -> tuple[Trained, Prepared]:
        """A fit on all ratings from the challenger's factors; its figures stay those of the evaluation."""
        whole: Ratings = self.ratings
        prepared = Prepared(
            whole, self.prepared.test, self.prepared.about | {"refit": True}, whole.fingerprint(), 0.0
        )
        model = self.model
        start = warm_start(trained.fitted, model, whole).factors if isinstance(model, FactorModel) else None
        with executor(whole, self.model.storage, **self.request.place.settings()) as where:
            name = f"{self.request.name}, refit"
            refit = fit_and_evaluate(self.model, prepared, where, start=start, name=name)
        refit.metrics, refit.diagnosis = trained.metrics, trained.diagnosis
        return refit, prepared

    def _drop_old_versions(self, stored: Version) -> None:
        if self.request.keep_versions is None:
            return
        needed = {stored.number, stored.manifest.get("evaluated_as")}
        old = self.store.numbers(self.request.name)[: -self.request.keep_versions]
        for number in old:
            if number not in needed:
                self.store.remove(self.request.name, number)

    def conclude(self) -> dict:
        """Write the decision down; the record of the retrain."""
        if self.decision == "refused":
            log.warning("refused: %s", self.words)
        record = self._record()
        try:
            decisions.write(self.store, record)
        except StoreError as error:
            if self.version is None:
                raise
            label = f"{self.request.name}@{self.version}"
            raise StoreError(f"{label} is published, but its decision is not recorded: {error}") from error
        return record

    def _record(self) -> dict:
        fit = self.trained and self.trained.fit
        return {
            "name": self.request.name,
            "decision": self.decision,
            "words": self.words,
            "forced": self.forced,
            "version": self.version,
            "champion": self.champion and self.champion.number,
            "judged_by": self.champion and self.champion.label,
            "run": self.run,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self.model.name,
            "params": self.model.params,
            "start": self.start,
            "options": self.request.options(),
            "data": self.prepared.data(),
            "test": {
                "rows": len(self.prepared.test),
                "users": len(self.prepared.test.user.unique()),
                "sha256": self.prepared.sums()["test"],
                "holdout": self.prepared.about["holdout"],
            },
            "drift": self.drift,
            "gate": self.gate,
            "fit": fit
            and {
                "objective": fit.objective,
                "train_rmse": fit.train_rmse,
                "n_iter": fit.n_iter,
                "converged": fit.converged,
                "collapsed": fit.collapsed,
                "warnings": fit.warnings,
            },
            "timings": self.timings | {"total": sum(self.timings.values())},
        }


def _judged(fitted: FittedModel, test) -> Judged:
    predicted, source = fitted.predict(test.user, test.item)
    return Judged(np.asarray(predicted, np.float64), source == 0)
