"""The one exception for a user's mistake: its message is a single line that says what is wrong and how to mend it.

And the one warning, for what can be worked on, but not all of it.
"""


class UserError(ValueError):
    """Raised for bad input. The command line prints the message and exits with code 2, without a traceback."""


class ContextWarning(UserWarning):
    """Something is longer than the context: its beginning is not read."""
