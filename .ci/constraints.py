"""Print one pin for each package that is installed here, torch first.

A version that dropped an older Python carries a marker, so that the file also serves the oldest Python we support.
"""

from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

NOT_PINNED = {"flamingo-assistant", "pip", "setuptools", "wheel"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def pin(distribution: metadata.Distribution) -> str:
    """``name==version``; without a local part such as ``+cpu``, which names a build and not a version."""
    supported = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
    oldest = next(python for python in PYTHONS if supported.contains(f"{python}.99"))
    marker = "" if oldest == PYTHONS[0] else f' ; python_version >= "{oldest}"'
    return f"{canonicalize_name(distribution.name)}=={distribution.version.partition('+')[0]}{marker}"


if __name__ == "__main__":
    pins = {pin(found) for found in metadata.distributions() if canonicalize_name(found.name) not in NOT_PINNED}
    print("# What was tested together; written by `make constraints`.")
    print(*sorted(pins, key=lambda line: (not line.startswith("torch=="), line)), sep="\n")
