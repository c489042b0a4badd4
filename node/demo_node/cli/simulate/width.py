"""How wide what is written to may be."""

import os
from typing import TextIO


def find_columns(stream: TextIO, otherwise: int) -> int:
    """Columns of the terminal behind `stream`; `otherwise` where there is none, or it is silent."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or otherwise
    except (OSError, ValueError, AttributeError):  # a pipe, a file, no real file, none at all
        return otherwise
