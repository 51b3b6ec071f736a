"""What a data set holds open that forked workers would share."""

from __future__ import annotations

from typing import Any

import torch


def open_resources(dataset: Any, depth: int = 2) -> list[str]:
    """What the data set holds open that forked workers would share: ``name: kind``, nested data sets included."""
    import io
    import socket
    import sqlite3

    found = []
    for name, value in list(getattr(dataset, "__dict__", {}).items()):
        kind = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
        if isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO) and not value.closed:
            found.append(f"{name}: an open file ({getattr(value, 'name', kind)})")
        elif isinstance(value, sqlite3.Connection | sqlite3.Cursor | socket.socket):
            found.append(f"{name}: an open connection ({kind})")
        elif kind in ("h5py.File", "lmdb.Environment", "h5py.Dataset", "zipfile.ZipFile", "tarfile.TarFile",
                      "psycopg2.connection", "pymysql.Connection", "redis.Redis", "netCDF4.Dataset"):
            found.append(f"{name}: an open {kind}")
        elif depth and hasattr(value, "__getitem__") and hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
            found += [f"{name}.{inner}" for inner in open_resources(value, depth - 1)]
    return found
