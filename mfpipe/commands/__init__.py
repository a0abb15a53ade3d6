"""The commands, a file for each family; a new family is one file and one line here."""

from mfpipe.commands import (
    dashboard,
    models,
    ratings,
    recommend,
    retraining,
    runs,
    search,
    serve,
    training,
    use,
)

FAMILIES = (training, retraining, search, ratings, use, recommend, serve, dashboard, models, runs)
