"""The exceptions of mfpipe, each with the exit code the command line ends with.

MfpipeError
├── ParameterError   2   wrong usage or parameter
├── RatingsError     3   bad input data
├── NumericError     4   non-finite solve, objective that rose
├── StoreError       5   store missing, damaged or not writable
├── GateError        6   refused by the publishing gate; the old version stays current
└── ClusterError     7   cluster not reachable or lost for good
"""


class MfpipeError(Exception):
    """Anything mfpipe refuses or cannot do, said in words for the person who asked."""

    exit_code = 1


class ParameterError(MfpipeError, ValueError):
    """A parameter outside what it may be; also a ValueError, as scikit-learn expects."""

    exit_code = 2


class RatingsError(MfpipeError, ValueError):
    """Input data that cannot be used."""

    exit_code = 3


class NumericError(MfpipeError, ArithmeticError):
    """A solve that gave a non-finite value, or an objective that rose."""

    exit_code = 4


class StoreError(MfpipeError):
    """A model store or dataset that is missing, damaged or not writable."""

    exit_code = 5


class GateError(MfpipeError):
    """A challenger, or the data to train it on, that the publishing gate refused.

    `record` is what `retrain` would have returned: the decision and its figures.
    """

    exit_code = 6

    def __init__(self, message: str, record: dict):
        super().__init__(message)
        self.record = record


class ClusterError(MfpipeError):
    """A Dask cluster that cannot be reached, or was lost for good."""

    exit_code = 7
