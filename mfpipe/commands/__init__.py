"""The commands, a file for each family; a new family is one file and one line here."""

from mfpipe.commands import models, ratings, recommend, runs, search, serve, training, use

FAMILIES = (training, search, ratings, use, recommend, serve, models, runs)
