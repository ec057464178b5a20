"""Where the folder of the migrations is."""

from __future__ import annotations

from pathlib import Path


def find(directory: str, root: str) -> Path:
    """Find *directory* in the current folder, beside the app, or beside its package.

    :param root: the folder of the app.
    :returns: the path in the current folder, if there is none.
    """
    here, beside = Path(directory), Path(root)
    if here.is_absolute():
        return here
    for parent in (Path.cwd(), beside, beside.parent):
        if (parent / here / "env.py").is_file():
            return (parent / here).absolute()
    return here.absolute()
