"""Without the progress bars that transformers shows for each file that it reads or writes, however small."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """No bars inside; afterwards as before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
