"""Ratings in the order of their rows, by counting: stable, and without comparing anything."""

from mfpipe.kernels import kernel


@kernel
def count_rows(rows, counts):
    """Add to `counts` how often each row occurs.

    Parameters
    ----------
    rows : int32, shape (n,)
    counts : in and out, int64, shape (number of rows,)
    """
    for n in range(len(rows)):
        counts[rows[n]] += 1


@kernel
def add_by_row(rows, values, sums):
    """Add each value to the sum of its row, in the order given.

    Parameters
    ----------
    rows : int32, shape (n,)
    values : float64, shape (n,)
    sums : in and out, float64, shape (number of rows,)
    """
    for n in range(len(rows)):
        sums[rows[n]] += values[n]


@kernel
def place(rows, columns, values, times, places, columns_out, values_out, times_out):
    """Put each rating at the next place of its row.

    Parameters
    ----------
    rows, columns : int32, shape (n,)
    values : floating, shape (n,)
    times : int64, shape (n,), or (0,) if there are none
    places : in and out, int64, shape (number of rows,)
        Where the next rating of each row goes.
    columns_out, values_out, times_out : out
    """
    timed = len(times) > 0
    for n in range(len(rows)):
        at = places[rows[n]]
        places[rows[n]] = at + 1
        columns_out[at] = columns[n]
        values_out[at] = values[n]
        if timed:
            times_out[at] = times[n]
