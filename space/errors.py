"""Errors that a person can mend; scripts print them as one line and no traceback."""


class DataError(ValueError):
    """Input that a person has to mend. The message is one line that names the file, the row and the field."""


class ProductIndexError(DataError):
    """A folder that is no index of ours, or vectors and products that don't fit. The message is one line."""


def one_line(error: object, length: int = 500) -> str:
    """The start of a message on one line."""
    return " ".join(str(error).split())[:length]
