"""The one error that means: the input was not what it must be."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something given to chreode is not what was expected.

    The message says what was expected, what was found and what to do; the command line prints it as one
    paragraph and exits with code 2.
    """
