"""The exception for every error that a user can cause and fix."""


class EcgpipeError(Exception):
    """A mistake in the input, the settings or the surroundings, told in one message.

    The message says what was wrong (the value), where (the path or key) and how to fix it. Commands print it
    without a traceback and exit with 2; any other exception is a bug of ours.
    """
