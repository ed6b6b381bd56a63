"""`lacuna tune`: what is stored, when it is used, and what is said. The measuring: tests/kernels/test_tune.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine import packed_engine, tuned
from lacuna_ls.engine.errors import DeviceError, LacunaError
from lacuna_ls.kernels import dispatch, tiles, tune
from lacuna_ls.lsp import cli

CARD, OTHER = "a card", "another card"
SHIPPED = tiles.shipped()["default"]["gate_up.int4"]
MINE = [{**SHIPPED[0], "stages": 5}, *SHIPPED[1:]]
TABLE = {"gate_up.int4": MINE}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuned, "cache_file", lambda: tmp_path / "lacuna" / "tiles.json")
    yield
    tiles.use({})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """A machine with a CUDA device, as far as names go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: CARD)
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)


def in_use(name: str = CARD) -> list[tiles.Tile]:
    return tiles.table_for(name, (8, 9))["gate_up.int4"]


def fake_tune(
    monkeypatch: pytest.MonkeyPatch, *, is_complete: bool = True, winners: tuple[tune.Winner, ...] | None = None
):
    """Measuring that takes no time: one entry became a quarter faster, one stayed."""
    if winners is None:
        winners = (
            tune.Winner("gate_up.int4", 6, MINE[0], 0.2, 0.15, 5),
            tune.Winner("attention", 256, tiles.shipped()["default"]["attention"][1], 0.1, 0.1, 4),
            tune.Winner("router", 64, tiles.shipped()["default"]["router"][0], float("inf"), 0.01, 1),
        )

    def measured(device: torch.device, progress: tune.Progress) -> tune.Tuned:
        assert device.type == "cuda"
        progress(0, 2, "gate_up.int4, 6 rows")
        progress(1, 2, "attention, 256 rows")
        return tune.Tuned(TABLE, winners, is_complete)

    monkeypatch.setattr(tune, "tune", measured)


def test_the_file_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tuned.cache_file()
    assert (file.parent.name, file.name) == ("lacuna", "tiles.json")


def test_what_is_stored_is_used(card: None):
    assert tuned.apply() is False
    path = tuned.save(CARD, TABLE)
    assert path == tuned.cache_file()
    assert in_use() == SHIPPED
    assert tuned.apply() is True
    assert in_use() == MINE
    # nothing is left beside it
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", sorted(tiles.shipped()))
def test_whatever_tune_may_leave_is_used(card: None, name: str):
    """A table of tiles that all stayed, and every candidate in the place of its entry."""
    shipped = tiles.shipped()[name]
    tuned.save(CARD, shipped)
    assert tuned.apply() is True
    assert tiles.table_for(CARD, (8, 9)) == shipped
    for operation, entries in shipped.items():
        for index, tile in enumerate(entries):
            for candidate in tune.candidates(operation, tile):
                table = {operation: [*entries[:index], candidate, *entries[index + 1 :]]}
                tuned.save(CARD, table)
                assert tuned.apply() is True, candidate
                assert tiles.table_for(CARD, (8, 9))[operation] == table[operation]


def test_where_nothing_could_be_stored_the_shipped_tiles_serve(card: None, monkeypatch: pytest.MonkeyPatch):
    """A borrowed machine has torch, and no library that knows the user's folders."""

    def no_folder() -> Path:
        raise ModuleNotFoundError("No module named 'platformdirs'")

    monkeypatch.setattr(tuned, "cache_file", no_folder)
    assert tuned.apply() is False
    assert in_use() == SHIPPED


def test_another_devices_table_is_not_used_but_kept(card: None):
    tuned.save(OTHER, TABLE)
    assert tuned.apply() is False
    assert in_use() == in_use(OTHER) == SHIPPED
    tuned.save(CARD, TABLE)
    assert tuned.apply() is True
    assert in_use() == MINE
    assert in_use(OTHER) == SHIPPED
    assert set(json.loads(tuned.cache_file().read_text())["devices"]) == {CARD, OTHER}


def test_without_a_device_nothing_is_used(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tuned.save(CARD, TABLE)
    assert tuned.apply() is False
    assert not caplog.records


def stored(devices: object, made_with: str | None = None) -> str:
    return json.dumps({"made_with": tuned._made_with() if made_with is None else made_with, "devices": devices})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty: the disk was full"),
        pytest.param(b'{"made_with": "la', id="cut off"),
        pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="nested until Python gives up"),
        pytest.param(b"[1, 2]", id="JSON of something else"),
        pytest.param(stored([CARD]).encode(), id="devices without tables"),
        pytest.param(stored({CARD: 3}).encode(), id="a table that is a number"),
        pytest.param(stored({CARD: {"winograd": MINE}}).encode(), id="an operation that does not exist"),
        pytest.param(stored({CARD: {"gate_up.int4": []}}).encode(), id="no tile at all"),
        pytest.param(stored({CARD: {"gate_up.int4": MINE[:1]}}).encode(), id="no tile without a limit"),
        pytest.param(stored({CARD: {"gate_up.int4": [7]}}).encode(), id="a tile that is a number"),
        pytest.param(stored({CARD: {"gate_up.int4": [{"BM": 8}]}}).encode(), id="a tile that lacks keys"),
        pytest.param(stored({CARD: {"gate_up.int4": [{**MINE[-1], "BN": "64"}]}}).encode(), id="a tile with a text"),
        pytest.param(stored({CARD: {"gate_up.int4": [{**MINE[-1], "warps": 0}]}}).encode(), id="no warps"),
    ],
)
def test_a_broken_file_is_one_line_and_the_shipped_tiles(card: None, caplog: pytest.LogCaptureFixture, text: bytes):
    tuned.save(CARD, TABLE)
    assert tuned.apply()
    tuned.cache_file().write_bytes(text)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert tuned.apply() is False
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert str(tuned.cache_file()) in message
    assert "lacuna tune" in message
    assert "\n" not in message
    # not even those that were in use before
    assert in_use() == SHIPPED
    # and tuning again mends it
    tuned.save(CARD, TABLE)
    assert tuned.apply() is True


def test_a_file_that_cannot_be_read(card: None, caplog: pytest.LogCaptureFixture):
    tuned.cache_file().mkdir(parents=True)
    assert tuned.apply() is False
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_tiles_of_other_versions_are_not_used(card: None, caplog: pytest.LogCaptureFixture):
    tuned.save(OTHER, TABLE)
    tuned.cache_file().write_text(stored({CARD: TABLE}, made_with="lacuna-ls 0.0.1, triton 2.0"))
    with caplog.at_level(logging.WARNING):
        assert tuned.apply() is False
    assert not caplog.records
    # what they held does not come back with a new measurement of something else
    tuned.save(OTHER, TABLE)
    assert tuned.apply() is False


def test_the_packed_engine_asks_for_them(card: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class StopError(Exception):
        pass

    def stop(*_: object):
        raise StopError

    tuned.save(CARD, TABLE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1, 1))
    monkeypatch.setattr(packed_engine, "plan_folder", stop)
    with pytest.raises(StopError):
        packed_engine.PackedEngine.load_folder(tmp_path, "cuda")
    assert in_use() == MINE


def test_tune_shows_what_was_gained_and_stores_it(card: None, monkeypatch: pytest.MonkeyPatch, capsys):
    fake_tune(monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["tune"]) == 0
    out, err = capsys.readouterr()
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["gate_up.int4", "6 rows", "200.0 us", "150.0 us", "25 %"] in lines
    assert ["attention", "256 head size", "100.0 us", "100.0 us", "kept"] in lines
    # the shipped tile did not run on this card, or was wrong
    assert ["router", "64 rows", "fails", "10.0 us", "works"] in lines
    assert str(tuned.cache_file()) in out
    assert "2/2" in err
    assert tuned.apply() is True
    assert in_use() == MINE


def test_tune_says_that_the_time_was_over(card: None, monkeypatch: pytest.MonkeyPatch, capsys):
    fake_tune(monkeypatch, is_complete=False)
    assert tuned.main([]) == 0
    assert "The time was over" in capsys.readouterr().out
    assert tuned.apply() is True


def test_nothing_measured_stores_nothing(card: None, monkeypatch: pytest.MonkeyPatch, capsys):
    fake_tune(monkeypatch, winners=())
    assert cli.main(["tune"]) == 1
    assert "no tile could be measured on a card" in capsys.readouterr().err
    assert not tuned.cache_file().exists()


def test_a_full_gpu_is_said_in_one_line(card: None, monkeypatch: pytest.MonkeyPatch):
    def full(device: torch.device, progress: tune.Progress) -> tune.Tuned:
        raise torch.OutOfMemoryError("tried to allocate 352 MiB")

    monkeypatch.setattr(tune, "tune", full)
    with pytest.raises(DeviceError, match="too full to measure in; close what else"):
        tuned.main([])


def test_a_cache_that_cannot_be_written(card: None, monkeypatch: pytest.MonkeyPatch):
    tuned.cache_file().parent.write_text("a file where the folder should be")
    with pytest.raises(LacunaError, match=r"cannot be stored in .*tiles\.json"):
        tuned.save(CARD, TABLE)


def test_what_cannot_be_put_in_its_place_leaves_nothing_behind(card: None):
    tuned.cache_file().mkdir(parents=True)
    with pytest.raises(LacunaError, match=r"cannot be stored in .*tiles\.json"):
        tuned.save(CARD, TABLE)
    assert [file.name for file in tuned.cache_file().parent.iterdir()] == ["tiles.json"]


def test_forget_removes_it(card: None, capsys):
    tuned.save(CARD, TABLE)
    assert tuned.apply()
    assert cli.main(["tune", "--forget"]) == 0
    assert capsys.readouterr().out == f"removed {tuned.cache_file()}\n"
    assert not tuned.cache_file().exists()
    # an engine that starts again in this process is back to the shipped tiles
    assert tuned.apply() is False
    assert in_use() == SHIPPED
    assert cli.main(["tune", "--forget"]) == 0
    assert capsys.readouterr().out.startswith("nothing was stored in")


@pytest.mark.parametrize(
    ("cuda_build", "has_cuda", "words"),
    [
        pytest.param(None, False, "install a CUDA build of torch", id="torch for CPUs"),
        pytest.param("13.0", False, "check the driver with nvidia-smi", id="no device, or no driver"),
        pytest.param("13.0", True, "pip install triton", id="no Triton"),
    ],
)
def test_without_what_it_takes_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys, cuda_build: str | None, has_cuda: bool, words: str
):
    monkeypatch.setattr(torch.version, "cuda", cuda_build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    assert cli.main(["tune"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert words in err
    assert err.count("\n") == 1
    assert not tuned.cache_file().exists()
