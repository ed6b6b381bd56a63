"""Into a packed file goes a new header, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine.checkpoint import load_checkpoint, load_config, save_packed
from lacuna_ls.engine.errors import CheckpointError, ConfigError, ModelError, ModelNotFoundError
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import CALIBRATION_KEY, CARD_KEY, TOKENIZER_KEY, read_metadata
from lacuna_ls.infill.calibration import Calibration, Curve
from lacuna_ls.training import export as export_module
from lacuna_ls.training.export import main, repack
from lacuna_ls.training.train import SIZES, initialise
from safetensors.torch import load_file, save_file

CALIBRATION = Calibration({"verify": Curve((-2.0, -1.0), (0.25, 0.75))}, 0.5)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "packed.safetensors"
    torch.manual_seed(0)
    model = initialise(DiffusionGemma(SIZES["tiny"].config(300)))
    save_packed(model, path, {TOKENIZER_KEY: "{}", CARD_KEY: '{"a": 1}'})
    return path


def test_a_new_calibration_leaves_every_tensor_as_it_is(packed: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "calibration.json", tmp_path / "new.safetensors"
    table.write_text(json.dumps(CALIBRATION.to_json()), "utf-8")
    assert main(["--from-packed", str(packed), "--calibration", str(table), "--out", str(out)]) == 0
    before, after = load_file(packed), load_file(out)
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name
    header = read_metadata(out)
    assert Calibration.from_json(json.loads(header.pop(CALIBRATION_KEY))) == CALIBRATION
    assert header == read_metadata(packed)
    # in place, and another card beside the calibration
    (tmp_path / "card.json").write_text('{"a": 2}', "utf-8")
    assert main(["--from-packed", str(out), "--card", str(tmp_path / "card.json"), "--out", str(out)]) == 0
    assert read_metadata(out) == {**header, CALIBRATION_KEY: table.read_text("utf-8"), CARD_KEY: '{"a": 2}'}
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_a_tensor_goes_in_beside_or_instead(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    ones = torch.ones(64)
    size = repack(packed, out, {}, {"norm.weight": ones})
    assert size == out.stat().st_size
    assert torch.equal(load_checkpoint(out, weights="fp32").state_dict()["norm.weight"], ones)
    assert read_metadata(out) == read_metadata(packed)
    # what no model can be read from is not written
    with pytest.raises(ModelError, match=r"norm\.weight has shape"):
        repack(packed, out, {}, {"norm.weight": torch.ones(3)})
    assert torch.equal(load_file(out)["norm.weight"], ones)
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be_repacked_says_why(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.safetensors"
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(ConfigError, match="not a packed Lacuna model"):
        repack(foreign, out, {})
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        repack(tmp_path / "gone.safetensors", out, {})
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"curves": 3}', "utf-8")
    with pytest.raises(ConfigError, match=r"wrong\.json is no calibration.*evaluate --calibrate"):
        main(["--from-packed", str(packed), "--calibration", str(wrong), "--out", str(out)])
    with pytest.raises(ModelNotFoundError, match=r"gone\.json cannot be read"):
        main(["--from-packed", str(packed), "--calibration", str(tmp_path / "gone.json"), "--out", str(out)])
    with pytest.raises(ModelNotFoundError, match=r"state\.safetensors does not exist; train first: lacuna train"):
        main([str(tmp_path), "--tokenizer", str(wrong), "--out", str(out)])
    monkeypatch.setattr(export_module, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="over the limit"):
        repack(packed, out, {CARD_KEY: "{}"})
    assert not out.exists()
    for wrongly, told in (
        (["--out", str(out)], "--from-packed"),
        ([str(tmp_path), "--out", str(out)], "--tokenizer"),
        (["--from-packed", str(packed), "--out", str(out)], "--calibration"),
        ([str(tmp_path), "--from-packed", str(packed), "--out", str(out)], "--from-packed"),
    ):
        with pytest.raises(SystemExit):
            main(wrongly)
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--calibration", bytes(range(256)), "is no"),
        ("--calibration", b"[" * 100_000, "is no calibration"),
        ("--card", bytes(range(256)), "is not"),
        ("--card", b"{", "is not valid JSON"),
        ("--card", b"[]", "holds no JSON object"),
    ],
)
def test_what_is_no_json_is_said(packed: Path, tmp_path: Path, option: str, content: bytes, words: str) -> None:
    file, out = tmp_path / "given.json", tmp_path / "new.safetensors"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        main(["--from-packed", str(packed), option, str(file), "--out", str(out)])
    assert not out.exists()


def test_where_nothing_can_be_written_is_said(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for out, words in (("none/new.safetensors", "cannot be written"), ("folder.safetensors", "is a folder")):
        with pytest.raises(ModelError, match=words):
            repack(packed, tmp_path / out, {CARD_KEY: "{}"})
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_no_state_of_a_run_is_said(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(load_config(packed).to_dict()))
    for write in (
        lambda path: path.write_bytes(b"x"),
        lambda path: save_file({"w": torch.ones(2)}, path),
    ):
        write(tmp_path / "state.safetensors")
        with pytest.raises(CheckpointError, match=r"state\.safetensors is not the state of a training run"):
            export_module.load_run(tmp_path)
