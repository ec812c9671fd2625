"""Errors that end a run with one line on stderr and an exit code of their own."""

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """A run that cannot go on, for a reason the user can act on."""

    exit_code = 1


class ConfigError(RunError):
    """A config, a command line, a workdir or a device that cannot be used."""

    exit_code = 2


class DataError(RunError):
    """Data that cannot be read or does not hold what the config asks of it."""

    exit_code = 3


class Hung(DataError):
    """Images that nobody gets to read; what reads them cannot be ended either."""


class WeightsError(DataError):
    """A weight file that is damaged, hostile, or of another network."""


class CheckpointError(RunError):
    """A checkpoint that is damaged, of another run, or could not be written."""

    exit_code = 4


class NonFiniteError(RunError):
    """A loss, gradient, parameter or statistic that is not a finite number."""

    exit_code = 5


class Stopped(RunError):
    """A run ended by a signal; exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown(field: str, name: str, allowed: Iterable[str]) -> str:
    """Returns one line: the value, its nearest match if one is near, all allowed."""
    allowed = [str(choice) for choice in allowed]
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{field} = {name!r} is unknown{hint}; choose from: {', '.join(allowed)}"


def quote(text: object, limit: int = 80) -> str:
    """Returns what a file holds as it may stand in an error: one short printable line.

    A name of any length, with line breaks or terminal codes in it, must do no harm.
    """
    text = repr(str(text)[: limit + 1])[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."
