"""The errors that a user can cause or mend, with the exit codes of the command lines."""


class UsageError(Exception):
    """The command or the configuration asks for something impossible; exit code 2.

    The message is one or two sentences: what was found, what was expected, what to do next.
    """

    exit_code = 2


class BadDataError(Exception):
    """A file or a data set is not what it has to be; exit code 3.

    The message is one or two sentences: what was found, what was expected, what to do next.
    """

    exit_code = 3


class Interrupted(Exception):
    """The work was asked to stop (SIGTERM or SIGINT) and can go on later; exit code 75.

    The message says what is kept and how to go on.
    """

    exit_code = 75
