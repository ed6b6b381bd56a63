"""The head of a function that others are called like, drafted from theirs."""

from __future__ import annotations

import pytest
from infill_cases import indexed, seen
from lacuna_ls.infill.heads import heads_for

BASE = """\
class Shape(ABC):
    @property
    def size(self) -> int:
        return 1

    def draw(self, canvas, *, scale=1.0):
        pass

    def spread(
        self,
        width,
    ):
        pass


def run(argv):
    pass
"""


def drafts(text: str, others: dict[str, str], language: str = "python"):
    """What is drafted at the | of a text, the likeliest first. others: files of the workspace."""
    return heads_for(*seen(text, language), "/here.py", indexed(others))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("    def draw|", "(self, canvas, *, scale=1.0):", id="behind the name"),
        pytest.param("    def draw(|", "self, canvas, *, scale=1.0):", id="behind the bracket"),
        pytest.param("    def draw(self, can|", "vas, *, scale=1.0):", id="within its parameters"),
        pytest.param("    def draw(this|", "", id="it has begun in another way"),
        pytest.param("    def other(|", "", id="nobody has one"),
        pytest.param("    def run(|", "", id="a method is no function"),
        pytest.param("    def spread(|", "", id="a head of several lines"),
        pytest.param("    draw(|", "", id="a call"),
        pytest.param("    'def draw(|", "", id="a string"),
        pytest.param("    # def draw(|", "", id="a comment"),
        pytest.param("    def draw(|): pass", "", id="more stands behind it"),
        pytest.param("def run(|", "argv):", id="a function"),
    ],
)
def test_what_others_of_the_name_take(line: str, expected: str) -> None:
    found = drafts(f"class Circle(Shape):\n{line}\n", {"/shape.py": BASE})
    assert [each.text for each in found[:1]] == ([expected] if expected else [])


def test_the_more_agree_and_the_nearer_they_are_the_likelier_it_is() -> None:
    here = "class Circle(Shape):\n    def draw(|\n"
    one = drafts(here, {"/a.py": "class A:\n    def draw(self, pen):\n"})
    kin = drafts(here, {"/a.py": "class A(Shape):\n    def draw(self, pen):\n"})
    two = drafts(here, {f"/{each}.py": f"class {each}(Shape):\n    def draw(self, pen):\n" for each in "ab"})
    split = drafts(here, {"/a.py": "class A:\n    def draw(self, pen):\n", "/b.py": "class B:\n    def draw(self):\n"})
    assert one[0].probability() < kin[0].probability() < two[0].probability()
    assert split[0].probability() < one[0].probability()


def test_what_a_class_has_twice_is_a_getter_and_a_setter() -> None:
    text = "class A:\n    @property\n    def size(self):\n        return 1\n\n    @size.setter\n    def size(|\n"
    assert drafts(text, {}) == []


def test_its_own_older_self_says_nothing() -> None:
    assert drafts("class A:\n    def draw(|\n", {"/here.py": BASE}) == []


def test_no_secret_is_written() -> None:
    other = 'class A:\n    def draw(self, token="ghp_0123456789abcdefghijABCDEFGHIJ456789"):\n        pass\n'
    assert drafts("class B:\n    def draw(|\n", {"/a.py": other}) == []


def test_a_method_of_javascript_is_one_only_directly_in_a_class() -> None:
    other = {"/a.js": "class A extends View {\n  render(context, target) {\n  }\n}\n"}
    head = drafts("class B extends View {\n  render(|\n}\n", other, "javascript")
    assert [each.text for each in head] == ["context, target) {"]
    assert drafts("class B extends View {\n  other() {\n    render(|\n  }\n}\n", other, "javascript") == []


@pytest.mark.parametrize(
    ("language", "text", "other"),
    [
        pytest.param("typescript", "function get(a: A): B;\nfunction get(|\n", "", id="overloads of a module"),
        pytest.param("rust", "impl A for B {\n    fn get|\n}\n", "trait A {\n    fn get(&self);\n}\n", id="a trait"),
        pytest.param(
            "php",
            "class A\n{\n    public function get|\n}\n",
            "interface B\n{\n    public function get();\n}\n",
            id="an interface",
        ),
        pytest.param(
            "php",
            "interface B\n{\n    public function get|\n}\n",
            "abstract class A\n{\n    public function get()\n    {\n    }\n}\n",
            id="within an interface",
        ),
        pytest.param("lua", "local function get|\n", "local function get(a)\nend\n", id="what no other file sees"),
        pytest.param("python", "def get|\n", f"def get({'a, ' * 200}):\n", id="longer than anybody writes"),
    ],
)
def test_what_says_nothing_about_a_head(language: str, text: str, other: str) -> None:
    ending = {"typescript": "ts", "rust": "rs", "python": "py"}.get(language, language)
    assert drafts(text, {f"/other.{ending}": other}, language) == []


def test_a_trait_and_an_abstract_class_have_kin() -> None:
    traits = {"/a.rs": "trait A {\n    fn get(&self) -> u8;\n}\n"}
    assert [each.text for each in drafts("trait B {\n    fn get|\n}\n", traits, "rust")] == ["(&self) -> u8;"]
    classes = {"/a.php": "class A\n{\n    public function get(): int\n    {\n    }\n}\n"}
    text = "abstract class B\n{\n    public function get|\n}\n"
    assert [each.text for each in drafts(text, classes, "php")] == ["(): int"]
