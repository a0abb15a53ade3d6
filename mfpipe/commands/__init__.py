"""The commands, a file for each family; a new family is one file and one line here."""

from mfpipe.commands import models, ratings, retraining, runs, search, training, use

FAMILIES = (training, retraining, search, ratings, use, models, runs)
