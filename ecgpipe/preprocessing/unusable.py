"""The error for a recording that can be read but not used."""


class UnusableError(Exception):
    """A recording that can be read but not used; the message says why, with the file's own values in brackets."""
