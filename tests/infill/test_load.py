"""From a folder to an infiller: the tokenizer and the model have to know the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from canned_engine import CannedEngine
from infill_cases import CURSOR, TOKENIZER, asked
from lacuna_ls.engine.errors import ConfigError, VocabularyError
from lacuna_ls.infill.load import load_infiller
from safetensors.numpy import save_file


def write(folder, vocab_size):
    """What is read before a model is loaded."""
    from tiny_models import tiny_config

    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(TOKENIZER.to_json())
    (folder / "config.json").write_text(json.dumps(tiny_config(vocab_size=vocab_size).to_dict()))
    return folder


def test_a_tokenizer_that_knows_more_than_the_model_is_refused_before_anything_is_loaded(tmp_path):
    def engine(load):
        raise AssertionError("nothing is loaded")

    with pytest.raises(VocabularyError, match="has 272 tokens but the model knows 200"):
        load_infiller(str(write(tmp_path / "m", 200)), make_engine=engine)


def test_what_only_the_model_knows_is_banned(tmp_path):
    engine = CannedEngine(TOKENIZER, "f(1)")
    subject = load_infiller(str(write(tmp_path / "m", 300)), make_engine=lambda load: engine)
    assert subject.fill(asked(f"x = {CURSOR}\n")).proposals
    (problem,) = engine.problems
    assert set(range(272, 300)) < set(problem.banned) < set(range(300))


def test_no_model_says_what_no_token_has(tmp_path):
    from lacuna_ls.engine.checkpoint import save_folder
    from tiny_models import tiny_config, tiny_model

    folder = write(tmp_path / "m", 300)
    save_folder(tiny_model(tiny_config(vocab_size=300)), folder)
    subject = load_infiller(str(folder), "cpu")
    try:
        said = set()
        fill = subject.engine.fill

        def listened(problem, cancelled=None):
            results = fill(problem, cancelled)
            said.update(token for result in results for token in result.tokens)
            return results

        subject.engine.fill = listened
        for decoding in ("verify", "denoise"):
            subject.policy = replace(subject.policy, decoding=decoding)
            for seed in range(3):
                subject.fill(asked(f"x{seed} = {CURSOR}\n", seed=seed))
        assert said
        assert max(said) < 272
    finally:
        subject.close()


def test_a_packed_file_without_a_config_is_told(tmp_path):
    import numpy as np

    file = tmp_path / "m.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file, {"lacuna.tokenizer": TOKENIZER.to_json()})
    with pytest.raises(ConfigError, match="carries no config"):
        load_infiller(str(file))
