"""Which tile an operation uses on which GPU: the shipped table (tiles.json), and the user's own measurements over it.

A table maps an operation to candidates by size, smallest first: {"rows": 6, "BM": 8, "BN": 64, "warps": 4, "stages": 4}
serves everything up to `rows` rows (for experts: slots per expert on average, also 1.5); the last candidate of a list
has no limit. The packed products may have more keys, see OPTIONAL.
Tables are looked up by the device's name, then by its compute capability, then "default" (the RTX 4090's).
"9.0" was measured on an H200 where ARCHITECTURE.md says so; the other numbers were chosen by the offline gate and the
roofline model; `lacuna tune` measures them on the user's card.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

Tile = dict[str, int]
Table = dict[str, list[Tile]]

OPTIONAL = {"split": 1, "fold": 0, "quarters": 1}
"""What a tile of the packed products may have besides, and what its absence means. split: parts of the columns that
programs of their own sum up, added by a second launch or by whoever reads them; fold: 1 takes the offset of int4 codes
off on the tensor core; quarters of an int4 block that are read at once: 1, 2 or 4.
"""

SHIPPED = Path(__file__).with_name("tiles.json")

_measured: dict[str, Table] = {}


@cache
def shipped() -> dict[str, Table]:
    """The tables of tiles.json by device name, compute capability ("8.9") or "default"; complete after `inherit`."""
    raw = cast(dict[str, dict[str, Any]], json.loads(SHIPPED.read_text(encoding="utf-8")))
    return {name: _inherit(raw, name) for name in raw if not name.startswith("_")}


def _inherit(raw: dict[str, dict[str, Any]], name: str) -> Table:
    own = dict(raw[name])
    parent = own.pop("inherit", None)
    return {**(_inherit(raw, parent) if parent else {}), **own}


def table_for(name: str, capability: tuple[int, int]) -> Table:
    """The table of a device, with the user's measurements on top."""
    tables = shipped()
    base = tables.get(name) or tables.get(f"{capability[0]}.{capability[1]}") or tables["default"]
    return {**base, **_measured.get(name, {})}


def pick(operation: str, rows: float, device: torch.device) -> Tile:
    """The tile for an operation at a size on a device."""
    for tile in table_of(device)[operation]:
        if "rows" not in tile or rows <= tile["rows"]:
            return tile
    raise ValueError(f"the tile table of {operation} has no candidate without a limit")


def table_of(device: torch.device) -> Table:
    """The table of a device at hand; the default one on a CPU."""
    # not cached across `use`: a dictionary merge costs a microsecond, and CUDA graphs replay without it
    if device.type != "cuda":
        return table_for("", (0, 0))
    return table_for(_name(device), torch.cuda.get_device_capability(device))


@cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def is_tile(operation: str, tile: object) -> bool:
    """Whether a value of whatever origin is a tile of a shipped operation: all its keys, and what a kernel takes."""
    entries = shipped()["default"].get(operation)
    if entries is None or not isinstance(tile, dict):
        return False
    values = cast(dict[object, object], tile)
    # a shipped operation's last tile has no limit
    needed = set(entries[-1]) - OPTIONAL.keys()
    allowed = needed | OPTIONAL.keys() if "BN" in needed else needed
    if not needed <= values.keys() - {"rows"} <= allowed:
        return False
    return all(_is_value(str(key), value) for key, value in values.items())


def _is_value(key: str, value: object) -> bool:
    if key == "rows":
        return type(value) in (int, float) and 0 < cast(float, value) < float("inf")
    if type(value) is not int:
        return False
    if key == "fold":
        return value in (0, 1)
    # sizes are powers of two, as tl.arange wants them
    return value >= 1 and (key in ("split", "stages") or value & (value - 1) == 0) and (key != "quarters" or value <= 4)


def use(measured: dict[str, Table]) -> None:
    """Puts the user's measurements (by device name, what `tune` returned) over the shipped tables. {} forgets them.

    Raises: ValueError when they do not have the form of a table.
    """
    for table in measured.values():
        for operation, tiles in table.items():
            if operation not in shipped()["default"] or not tiles or "rows" in tiles[-1]:
                raise ValueError(f"the measured tiles of {operation!r} are not a tile table; run `lacuna tune` again")
    _measured.clear()
    _measured.update(measured)
