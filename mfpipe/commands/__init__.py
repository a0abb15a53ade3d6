"""The commands, a file for each family; a new family is one file and one line here."""

from mfpipe.commands import models, ratings, runs, training, use

FAMILIES = (training, ratings, use, models, runs)
