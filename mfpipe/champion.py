"""The version that a challenger has to hold its own against."""

from __future__ import annotations

from mfpipe.errors import StoreError
from mfpipe.evaluate import Holdout
from mfpipe.store import Store
from mfpipe.version import Version


class Champion:
    """The current version of a name, and the one it is judged by.

    Both are the same unless the current one was refitted on all rows: then its predecessor, which was not
    and which the gate let pass, stands for it.

    Parameters
    ----------
    current : Version
    judged : Version
    """

    def __init__(self, current: Version, judged: Version):
        self.number = current.number
        self.manifest = current.manifest
        self.judged = judged.manifest
        self.label = f"{judged.name}@{judged.number}"
        self.fitted = judged.load()

    @classmethod
    def of(cls, store: Store, name: str) -> Champion | None:
        """The champion of a name; None for a name that has no versions.

        Raises
        ------
        StoreError
            There are versions, and none is current, or `current` or a file of it is damaged. That is no
            reason to publish: somebody has to say which one is to be served.
        """
        numbers = store.numbers(name)
        has_current = store.path.joinpath(name).is_dir() and store.current(name) is not None
        if not has_current and numbers:
            raise StoreError(
                f"{name}: has versions ({', '.join(numbers)}) and none is current; "
                f"say which one is, with: mfpipe models rollback {name}@VERSION"
            )
        if not has_current:
            return None
        current = store.version(name)
        damage = current.damage()
        if damage:
            raise StoreError(f"{name}@{current.number} is current and damaged: {damage[0]}")
        stands_for = current.manifest.get("evaluated_as")
        return cls(current, store.version(name, stands_for) if stands_for else current)

    def newer_than(self, holdout: Holdout) -> int | None:
        """The time after which ratings are new to it, for a holdout by time; else None."""
        times = self.judged["data"].get("time")
        return times["latest"] if times and holdout.kind == "time" else None

    def may_have_seen(self, holdout: Holdout) -> str | None:
        """Why it may have trained on rows that are held out now; None where it cannot have.

        The keyed hash that draws a random holdout draws the same rows every night, and of two fractions
        the larger draws all rows of the smaller.
        """
        if holdout.kind == "time":
            if self.judged["data"].get("time"):
                return None
            why = "its manifest does not say how new its ratings were"
        else:
            theirs = self.judged["data"].get("holdout")
            had = Holdout.parse(theirs) if theirs else None
            if had and had.kind == "random" and had.amount >= holdout.amount:
                return None
            why = f"it was trained with {f'--holdout {theirs}' if theirs else 'test files'}"
        return (
            f"{self.label} may have trained on rows that --holdout {holdout} holds out ({why}), "
            "so it cannot be judged by them"
        )
