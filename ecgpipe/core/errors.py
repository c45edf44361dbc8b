"""The one exception for everything that a user can cause and mend."""


class EcgpipeError(Exception):
    """A mistake in the input, the settings or the surroundings, told in one message.

    The message says what was wrong (the value), where (the path or key) and how to mend it. Commands print it
    without a traceback and exit with 2; any other exception is a bug of ours.
    """
