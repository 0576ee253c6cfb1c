"""What the libraries underneath may say."""

import logging

__all__ = ["quiet_libraries"]


def quiet_libraries() -> None:
    """Keep the answer clear of what libraries say while they load; downloads from a hub still show how far they are."""
    logging.getLogger().setLevel(logging.ERROR)  # before the imports: some warn when they are imported

    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()
