"""Renew the inventories of Python, Flask and SQLAlchemy, to which the API page links.

``python docs/inventories/renew.py`` downloads them. They are kept here, so that the docs can be
built without a network. Only the roles that the page links to are kept: 40 kB instead of 200 kB.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from urllib.request import urlopen

FOLDER = Path(__file__).parent
SITES = {
    "python": "https://docs.python.org/3/",
    "flask": "https://flask.palletsprojects.com/en/stable/",
    "sqlalchemy": "https://docs.sqlalchemy.org/en/20/",
}
ROLES = ("class", "exception", "function", "method", "attribute", "property")
PYTHONS_ROLES = ("class", "exception")


def reduced(inventory: bytes, roles: tuple[str, ...]) -> bytes:
    """Return *inventory* (version 2 of Sphinx's format) with the Python objects of *roles* only."""
    mark = b"zlib.\n"
    head, _, body = inventory.partition(mark)
    kinds = [f" py:{role} ".encode() for role in roles]
    lines = zlib.decompress(body).splitlines(keepends=True)
    kept = b"".join(line for line in lines if any(kind in line for kind in kinds))
    return head + mark + zlib.compress(kept, 9)


def main(sites: dict[str, str]) -> None:
    """Write one file for each of *sites*."""
    for name, site in sites.items():
        with urlopen(f"{site}objects.inv") as response:  # noqa: S310 - a constant, or a file
            roles = PYTHONS_ROLES if name == "python" else ROLES
            (FOLDER / f"{name}.inv").write_bytes(reduced(response.read(), roles))


if __name__ == "__main__":
    main(SITES | dict(argument.split("=", 1) for argument in sys.argv[1:]))
