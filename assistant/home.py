"""Where fetched and made things live."""

import os
from pathlib import Path


def home() -> Path:
    """The folder that holds what is fetched or made: ``$ASSISTANT_HOME``, or ``~/.cache/flamingo-assistant``."""
    return Path(os.environ.get("ASSISTANT_HOME") or Path.home() / ".cache" / "flamingo-assistant").expanduser()
