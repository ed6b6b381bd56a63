"""From a folder to an infiller: the tokenizer and the model have to know the same tokens."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from canned_engine import CannedEngine
from infill_cases import CURSOR, TOKENIZER, asked
from lacuna_ls.engine.errors import ConfigError, DeviceError, VocabularyError
from lacuna_ls.engine.life import MIN_KV_TOKENS
from lacuna_ls.infill.chat import ChatTokenizer, build_chat_prompt
from lacuna_ls.infill.infiller import MAX_REWRITE
from lacuna_ls.infill.load import load_infiller, policy_for
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


@pytest.mark.parametrize("name", ["tokenizer.json", "calibration.json"])
@pytest.mark.parametrize("damage", ["a folder", "no text", "too long"])
def test_a_damaged_file_beside_the_weights_is_told(tmp_path, name, damage):
    path = write(tmp_path / "m", 300) / name
    path.unlink(missing_ok=True)
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b'"\xff"')
    if damage == "too long":
        # takes no place on the disk
        os.truncate(path, 3 << 30)
    with pytest.raises(VocabularyError, match=r"\.json cannot be read|is broken"):
        load_infiller(str(path.parent), make_engine=lambda load: CannedEngine(TOKENIZER, ""))


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


def quantised(folder):
    """A folder that runs as PackedEngine, with a chat tokenizer."""
    from chat_tokenizer import chat_backend
    from tiny_models import save_int4, tiny_config, tiny_model

    backend = chat_backend()
    model = tiny_model(tiny_config(hidden_size=64, vocab_size=backend.get_vocab_size()))
    save_int4(model, folder)
    (folder / "tokenizer.json").write_text(backend.to_str())
    return folder


def test_a_folder_is_loaded_by_the_first_fill_and_says_how_far_it_is(tmp_path):
    told = []
    subject = load_infiller(
        str(quantised(tmp_path / "m")), "cpu", is_lazy=True, kv_tokens=4096,
        progress=lambda done, total, name: told.append((done, total, name, subject.status().detail)),
    )  # fmt: skip
    try:
        assert subject.status().state == "unloaded"
        assert "first asked for" in subject.status().detail
        request = asked(f"def f(x):\n    return {CURSOR}\n")
        # what only prepares a request loads nothing
        subject.prefetch(request)
        assert subject.status().state == "unloaded"
        assert told == []
        subject.fill(request)
        assert subject.status().state == "ready"
        done, total, _, detail = told[-1]
        assert done == total > 0
        assert detail == "loading the model: 100 %"
    finally:
        subject.close()


def test_a_single_file_is_loaded_at_once(tmp_path):
    # as the embedded model is: nobody waits for its first ghost text
    from lacuna_ls.engine.modelfile import EMBEDDED

    if not EMBEDDED.exists():
        pytest.skip("this tree carries no embedded model")
    subject = load_infiller(None, "cpu", is_lazy=True)
    try:
        assert subject.status().state == "ready"
    finally:
        subject.close()


def test_an_engine_that_cannot_be_loaded_is_closed(tmp_path):
    class Failing(CannedEngine):
        is_closed = False

        def load(self):
            raise DeviceError("Close what else uses the GPU.")

        def unload(self):
            raise AssertionError("nothing is there")

        def close(self):
            self.is_closed = True

    engine = Failing(TOKENIZER, "")
    with pytest.raises(DeviceError):
        load_infiller(str(write(tmp_path / "m", 300)), make_engine=lambda load: engine)
    assert engine.is_closed


LINES = [f"def f{i}(path, mode):\n    with open(path, mode) as stream:\n        return {i * i}\n" for i in range(300)]
BEFORE, AFTER = "".join(LINES[:150]), "".join(LINES[150:])


def test_the_least_budget_holds_an_ordinary_fill(tmp_path):
    # full windows: this tokenizer has a token for nearly every byte
    subject = load_infiller(str(quantised(tmp_path / "m")), "cpu", kv_tokens=MIN_KV_TOKENS)
    subject.policy = replace(subject.policy, max_steps=1)
    try:
        result = subject.fill(asked(f"{BEFORE}def g(a):\n    {CURSOR}\n{AFTER}", kind="block", is_explicit=True))
        # what a budget of 1024 refused
        assert result.timings.num_prefilled + subject.policy.num_rows_block > 1024
    finally:
        subject.close()


def test_the_least_budget_holds_the_longest_question(small_words):
    policy = policy_for(small_words)
    prompt = build_chat_prompt(small_words, f"{BEFORE}    return ", AFTER, AFTER, policy.limits, BEFORE)
    # nothing is left out
    assert (prompt.num_prefix, prompt.num_suffix, prompt.num_neighbour) > (500, 180, 120)
    assert 1600 < len(prompt.tokens) + MAX_REWRITE * policy.num_rows_block <= MIN_KV_TOKENS


@pytest.fixture
def small_words():
    """A chat tokenizer with a token for each word of the question, as one of a real vocabulary has."""
    from chat_tokenizer import SPECIAL, chat_backend
    from lacuna_ls.infill import chat
    from tokenizers import pre_tokenizers, trainers

    backend = chat_backend()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    words = [chat._ASKED_ANEW, chat._OLD, chat._BEFORE, chat._GOES_ON, "Elsewhere: user model thought"]
    backend.train_from_iterator(words, trainer)
    return ChatTokenizer(backend)


def test_a_packed_file_without_a_config_is_told(tmp_path):
    import numpy as np

    file = tmp_path / "m.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file, {"lacuna.tokenizer": TOKENIZER.to_json()})
    with pytest.raises(ConfigError, match="carries no config"):
        load_infiller(str(file))
