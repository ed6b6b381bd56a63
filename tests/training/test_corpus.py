"""The corpus: which licences enter, what cleaning drops and cuts, duplicates, the hold-out, the format."""

import hashlib
import json
import random
import re
import subprocess
import sys
import textwrap
import zipfile
from importlib import metadata

import numpy as np
import pytest
from lacuna_ls.training import corpus, dedupe, sources
from lacuna_ls.training.corpus import Corpus, build_corpus, clean_text, cut_licence_header
from lacuna_ls.training.sources import Package, classify_licence


def module(seed: int, num_functions: int = 12) -> str:
    """A plausible module that shares no long run of tokens with that of another seed."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 9)))

    parts = [f'"""About {word()} and {word()}."""\n']
    for _ in range(num_functions):
        name, first, second, third = word() + "_", word() + "_", word() + "_", word() + "_"
        body = f"    {third} = {first}.{word()}({second}, {word()}_)\n    return {third}\n"
        parts.append(f"\ndef {name}({first}, {second}):\n{body}")
    return "".join(parts)


# licences


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "entered"),
    [
        # one SPDX identifier
        ("MIT", None, [], True),
        # copyleft in SPDX
        ("GPL-3.0-or-later", None, [], False),
        # weak copyleft is out too
        ("MPL-2.0", None, [], False),
        # a choice: one permissive arm is enough
        ("GPL-2.0-only OR MIT", None, [], True),
        # all at once: one restricted part spoils it
        ("BSD-3-Clause AND LGPL-2.1-only", None, [], False),
        # brackets bind before OR
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", None, [], True),
        ("MIT OR GPL-3.0-only AND LGPL-3.0-only", None, [], True),
        # an exception only adds permissions
        ("Apache-2.0 WITH LLVM-exception", None, [], True),
        ("GPL-3.0-only WITH GCC-exception-3.1", None, [], False),
        # a licence of its own wording cannot be judged here
        ("LicenseRef-Own-Words", None, [], False),
        # malformed expressions are refused, not guessed
        ("MIT MIT", None, [], False),
        ("(MIT", None, [], False),
        # SPDX decides alone, whatever the classifiers say
        ("GPL-3.0-only", "MIT", ["License :: OSI Approved :: MIT License"], False),
        # classifiers of older metadata
        (None, None, ["License :: OSI Approved :: BSD License"], True),
        (None, None, ["License :: OSI Approved :: Python Software Foundation License"], True),
        (None, None, ["License :: OSI Approved :: ISC License (ISCL)"], True),
        (None, None, ["License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)"], False),
        # two licences of which one is restricted: out, whichever is meant
        (
            None,
            None,
            [
                "License :: OSI Approved :: MIT License",
                "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",
            ],
            False,
        ),
        # a bare "OSI Approved" tells nothing: the field decides
        (None, "BSD-3-Clause", ["License :: OSI Approved"], True),
        # free text
        (None, "Apache 2.0 License", [], True),
        (None, "MIT", [], True),
        (None, "AGPLv3", [], False),
        (None, "Proprietary", [], False),
        (None, "see LICENSE", [], False),
        # only the first line of a pasted licence text counts
        (None, "BSD 3-Clause License\n\nunlike the GNU General Public License, ...", [], True),
        # nothing stated: out
        (None, None, [], False),
        (None, "", ["Programming Language :: Python"], False),
    ],
)
def test_licences(expression, field, classifiers, entered):
    assert (classify_licence(expression, field, classifiers) is not None) == entered


def test_no_installed_package_of_a_restricted_licence_enters():
    packages = {package.name: package for package in sources.installed_packages()}
    assert {"numpy", "torch", "pytest"} <= set(packages)
    # MPL-2.0, and this project itself
    assert not {"hypothesis", "lacuna-ls"} & set(packages)
    assert metadata.metadata("hypothesis")["License-Expression"] == "MPL-2.0"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("package/module.py", True),
        # not Python
        ("package/data.json", False),
        # a copy of another project: another licence, perhaps a held-out package
        ("pip/_vendor/rich/console.py", False),
        ("package/third_party/module.py", False),
        # only folders are copies; a module may be called so
        ("package/external.py", True),
        # written by protoc
        ("package/messages_pb2.py", False),
        # a benchmark
        ("evals/human_eval/data.py", False),
        ("evals/mbpp.py", False),
        # beside the standard library, not part of it
        ("site-packages/package/module.py", False),
    ],
)
def test_wanted_files(path, wanted):
    assert sources.is_wanted(path) == wanted


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/tests/x.py", True),
        ("a/test_x.py", True),
        ("conftest.py", True),
        ("a/latest/x.py", False),
        ("a/contest.py", False),
    ],
)
def test_tests_are_told_by_their_path(path, expected):
    assert sources.is_test(path) == expected


# cleaning

BODY = module(1)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (BODY.encode(), ""),
        (b"x = 1\n", "size"),
        (b"# pad\n" * 50_000, "size"),
        # Latin-1 bytes; Python 2 syntax; a template
        (BODY.encode() + b"# caf\xe9\n", "not utf-8"),
        (BODY.encode() + b"print 'hello'\n", "does not parse"),
        (b"# This file is generated by make_tables.py\n" + BODY.encode(), "generated"),
        (b"# DO NOT EDIT\n" + BODY.encode(), "generated"),
        # the words of a marker far down are about something else
        (BODY.encode() * 3 + b"# do not edit\n", ""),
        (b"table = [\n" + b"    0x1f, 0x2f, 12345, 67890,\n" * 60 + b"]\n", "data table"),
        (b"key = '" + b"a" * 1500 + b"'\n" + BODY.encode(), "long lines"),
        ((BODY + "words = '" + "слово " * 100 + "'\n").encode(), "not source text"),
    ],
)
def test_cleaning_names_its_reason(raw, reason):
    text, got = clean_text(raw)
    assert got == reason
    assert bool(text) == (not reason)


def test_cleaning_normalises_white_space():
    text, _ = clean_text(b"\xef\xbb\xbf" + BODY.replace("\n", "  \r\n").encode() + b"\r\n\r\n")
    assert text == BODY


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # a block of comments
        ("# Copyright 2020 A\n# Licensed under the MIT licence.\n\nimport a\n", "import a\n"),
        # a shebang and a remark in blocks of their own stay; only the licence goes
        ("# About things.\n\n# SPDX-License-Identifier: MIT\n\nimport a\n", "# About things.\nimport a\n"),
        # a docstring that is a licence
        ('"""Copyright (c) 2020 A. Permission is hereby granted..."""\nimport a\n', "import a\n"),
        # a docstring that is not stays, and the licence below it goes
        ('"""Things."""\n\n# License: BSD\n\nimport a\n', '"""Things."""\n\nimport a\n'),
        # comments without a licence stay
        ("# mypy: strict\nimport a\n", "# mypy: strict\nimport a\n"),
        # code about licences is code
        ("import a\n# the licence plate\nx = 1\n", "import a\n# the licence plate\nx = 1\n"),
    ],
)
def test_licence_headers_are_cut(source, expected):
    assert cut_licence_header(source) == expected


# duplicates


def test_minhash_estimates_the_similarity_of_two_texts():
    shared, one, two = ([f"w{kind}{i}" for i in range(n)] for kind, n in (("s", 600), ("a", 200), ("b", 200)))
    first, second = (" ".join(words).encode() for words in (shared + one, shared + two))
    estimate = float((dedupe.signature(first) == dedupe.signature(second)).mean())
    # about 600 of 1000 shingles in common; 128 rows: a standard deviation of 0.043
    assert abs(estimate - 0.6) < 0.13
    assert (dedupe.signature(first) == dedupe.signature(first + b" \n")).all()


def test_near_duplicates_fall_to_the_earlier_file_and_different_files_stay():
    base = module(3, 40)
    almost = re.sub(r"return (\w+)\n$", r"return \1 + 1\n", base)
    rows = np.stack([dedupe.signature(text.encode()) for text in (module(2, 40), base, module(4, 40), almost, base)])
    assert dedupe.find_duplicates(rows) == {3: 1, 4: 1}


def test_what_resembles_a_held_out_file_is_found_though_a_training_file_is_nearer():
    rng = np.random.default_rng(3)
    held, other = rng.integers(2**32, size=(2, dedupe.NUM_PERMUTATIONS), dtype=np.uint32)
    near = held.copy()
    changed = rng.permutation(dedupe.NUM_PERMUTATIONS)[: dedupe.NUM_PERMUTATIONS // 5]
    near[changed] += 1
    twin = near.copy()
    twin[changed[:2]] += 1
    training = np.stack((near, twin, other))
    # the twin is most like its own twin
    assert dedupe.find_duplicates(np.stack((held, *training)), 0.7)[2] in (0, 1)
    assert dedupe.find_resembling(training, held[None], 0.7) == {0, 1}
    assert dedupe.find_resembling(training, held[None], 0.9) == set()
    assert dedupe.find_resembling(training, training[:0], 0.7) == set()


def pair(similarity: float, number: int, size: int = 300) -> tuple[bytes, bytes]:
    """Two texts whose shingles have that Jaccard similarity, give or take the four at each seam."""
    # each has s shared and u words of its own: s / (s + 2 u)
    shared = round(size * similarity)
    own = round((size - shared) / 2)
    same, one, two = ([f"{kind}{number}x{i}" for i in range(n)] for kind, n in (("s", shared), ("a", own), ("b", own)))
    return " ".join(same + one).encode(), " ".join(same + two).encode()


@pytest.mark.parametrize(
    ("similarity", "least", "most"),
    [
        pytest.param(0.7, 0.99, 1.0, id="the hold-out's threshold: 16 bands of 8 rows found 0.61"),
        pytest.param(0.85, 1.0, 1.0, id="near duplicates"),
        pytest.param(0.2, 0.0, 0.2, id="what is not alike is seldom looked at"),
    ],
)
def test_bands_propose_what_is_alike(similarity: float, least: float, most: float) -> None:
    num_found = 0
    for number in range(150):
        first, second = (dedupe.signature(text) for text in pair(similarity, number))
        # a threshold of 0: whatever the bands propose
        num_found += bool(dedupe.find_resembling(second[None], first[None], 0.0))
    assert least <= num_found / 150 <= most


def test_pairs_over_the_threshold_are_decided_as_such() -> None:
    found = {
        similarity: sum(
            bool(dedupe.find_resembling(dedupe.signature(two)[None], dedupe.signature(one)[None], 0.7))
            for one, two in (pair(similarity, number) for number in range(60))
        )
        for similarity in (0.85, 0.55)
    }
    # 128 rows estimate with a standard deviation of 0.03 to 0.04
    assert found == {0.85: 60, 0.55: 0}


def test_exact_key_ignores_layout_only():
    assert dedupe.exact_key("a = 1\n\n\nb = 2") == dedupe.exact_key("a = 1\nb  =  2\n")
    assert dedupe.exact_key("a = 1") != dedupe.exact_key("a = 2")


def test_a_text_shorter_than_a_shingle_has_a_signature():
    assert dedupe.signature(b"").shape == dedupe.signature(b"x").shape == (dedupe.NUM_PERMUTATIONS,)


# the whole


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    held = module(20, 40)
    contents = {
        "lib/a.py": module(10),
        "lib/sub/b.py": module(11),
        "lib/tests/test_a.py": module(12),
        # the same code with another layout, and almost the same
        "lib/copy.py": module(10).replace("\n\n", "\n\n\n"),
        "lib/z_near.py": module(11).replace("return", "return  # done\n    return", 1),
        # a training file that repeats a held-out one with a few changes
        "other/borrowed.py": held.replace("About", "Concerning"),
        "other/broken.py": module(13) + "def (:\n",
        "other/c.py": module(14),
        "httpx/client.py": held,
        "httpx/models.py": module(21),
        "httpx2/client.py": module(22),
    }
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    packages = [
        Package(
            name, "1.0", licence, "python", root, tuple(sorted(path for path in contents if path.startswith(folder)))
        )
        for name, folder, licence in [
            ("some-lib", "lib/", "MIT"),
            ("other", "other/", "BSD-3-Clause"),
            ("httpx", "httpx/", "BSD-3-Clause"),
            ("httpx2", "httpx2/", "BSD-3-Clause"),
        ]
    ]
    out = root / "out"
    return out, packages, contents, build_corpus(out, packages=packages, jobs=1)


def test_the_splits_hold_what_they_should(built):
    out, _, contents, _ = built
    train, held = Corpus(out), Corpus(out, "holdout")
    assert {row["path"] for row in train.files()} == {"lib/a.py", "lib/sub/b.py", "lib/tests/test_a.py", "other/c.py"}
    assert {row["path"] for row in held.files()} == {"httpx/client.py", "httpx/models.py"}
    for split in (train, held):
        for i, row in enumerate(split.files()):
            assert split.text(i) == contents[row["path"]]
            assert row["language"] == "python"
    with pytest.raises(IndexError):
        train.text(len(train))


def test_hold_out_and_training_share_no_package_and_forks_are_in_neither(built):
    out, _, _, manifest = built
    listed = corpus.holdout_packages()
    in_train = {row["package"] for row in Corpus(out).files()}
    assert not in_train & set(listed["packages"])
    assert "httpx2" not in manifest["packages"]
    assert {name for name, row in manifest["packages"].items() if row["split"] == "holdout"} == {"httpx"}
    assert set(listed["snapshots"]) <= set(listed["packages"])
    assert not set(listed["forks"]) & set(listed["packages"])
    # every held-out package is pinned or installed, so that evaluation finds it
    pins = json.loads((corpus.Path(corpus.__file__).parent / "sources.json").read_text("utf-8"))["fetch"]
    assert all(pins[name] == version for name, version in listed["snapshots"].items())
    assert not set(listed["forks"]) & set(pins)


def test_the_manifest_counts_and_hashes(built):
    _, _, contents, manifest = built
    assert manifest["totals"]["train"]["files"] == 4
    assert manifest["left_out"] == {
        "exact duplicate": 1,
        "does not parse": 1,
        "near duplicate": 1,
        "near a held-out file": 1,
    }
    other = manifest["packages"]["other"]
    assert (other["version"], other["licence"], other["files"]) == ("1.0", "BSD-3-Clause", 1)
    assert other["sha256"] == hashlib.sha256(contents["other/c.py"].encode()).hexdigest()
    assert other["bytes"] == len(contents["other/c.py"].encode())
    assert manifest["files_read"] == 10


def test_tests_weigh_less(built):
    train = Corpus(built[0])
    chance = {
        row["path"]: weight / size
        for row, weight, size in zip(train.files(), train.sample_weights, train.index[:, 1], strict=True)
    }
    assert train.sample_weights.sum() == pytest.approx(1)
    assert chance["lib/tests/test_a.py"] / chance["lib/a.py"] == pytest.approx(corpus.TEST_WEIGHT)
    assert chance["lib/a.py"] == pytest.approx(chance["other/c.py"])


def test_finished_stages_are_not_done_again(built, monkeypatch):
    out, packages, _, manifest = built
    before = (out / "train.bin").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_collect", lambda *_: pytest.fail("collected again"))
        assert build_corpus(out, packages=packages) == manifest
        # killed between cleaning and writing: only the writing is done again, with the same outcome
        (out / "manifest.json").unlink()
        (out / "train.bin").unlink()
        assert build_corpus(out, packages=packages) == manifest
    assert (out / "train.bin").read_bytes() == before


def test_a_wheel_is_read_by_its_own_metadata(tmp_path):
    head = textwrap.dedent("""\
        Metadata-Version: 2.4
        Name: Some_Thing
        Version: 2.0
        License-Expression: {}
        """)
    for name, licence in (("good.whl", "MIT"), ("bad.whl", "AGPL-3.0-only")):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr("thing/a.py", "x = 1\n")
            wheel.writestr("thing/_vendor/b.py", "x = 1\n")
            wheel.writestr("some_thing-2.0.dist-info/METADATA", head.format(licence))
    assert sources.wheel_package(tmp_path / "bad.whl") is None
    package = sources.wheel_package(tmp_path / "good.whl")
    assert package is not None
    assert (package.name, package.version, package.files) == ("some-thing", "2.0", ("thing/a.py",))
    assert list(package.read()) == [("thing/a.py", b"x = 1\n")]


def test_wheels_at_hand_are_not_fetched_again(tmp_path, monkeypatch):
    (tmp_path / "some_thing-2.0-py3-none-any.whl").touch()
    commands = []
    monkeypatch.setattr(sources.subprocess, "run", lambda command, **_: commands.append(command))
    found = sources.fetch_wheels({"some-thing": "2.0", "absent": "1.0"}, tmp_path)
    assert [path.name for path in found] == ["some_thing-2.0-py3-none-any.whl"]
    assert [command[-1] for command in commands] == ["absent==1.0"]


def test_the_reader_and_the_sampler_import_only_numpy():
    code = (
        "import sys; import lacuna_ls.training.corpus, lacuna_ls.training.holes, lacuna_ls.training.tokenizer;"
        "heavy = {'pygls', 'tree_sitter', 'datasketch', 'torch', 'rich', 'tokenizers'}; print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
