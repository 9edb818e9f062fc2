"""The one error that means: the input was not what it must be; and the warning that it may not be."""

__all__ = ["InputError", "InputWarning"]


class InputError(ValueError):
    """Something given to chreode is not what was expected.

    The message says what was expected, what was found and what to do; the command line prints it as one
    paragraph and exits with code 2.
    """


class InputWarning(UserWarning):
    """Something given to chreode can be worked with, and may not mean what it seems to.

    The command line prints the message as one paragraph, and goes on.
    """
