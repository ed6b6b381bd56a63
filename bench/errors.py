"""What can go wrong in the world of a benchmark: one small tree, messages written for the person who runs it.

As in engine/errors.py, which this room does not import, a message says what happened and what to do about it.
"""


class BenchError(Exception):
    """Root of the tree.

    BenchError
    ├── SnapshotError       no such folder or archive, nothing usable in it, or over a limit
    ├── ServerError         the server does not start, ends early, or does not answer
    └── ResultsError        a results file, data set or diff cannot be read
    """


class SnapshotError(BenchError):
    """The repository snapshot cannot be used."""


class ServerError(BenchError):
    """The server under test does not start, ended, or does not answer."""


class ResultsError(BenchError):
    """A file that was given cannot be read as what it should be."""
