"""Which lines define a function or a class in each language, and what their parameters are."""

from __future__ import annotations

import re

import pytest
from lacuna_ls.infill.definitions import rules_of
from lacuna_ls.infill.languages import LANGUAGES, Language, language_for
from lacuna_ls.infill.parameters import Rules, defined_in, definitions_of, signature_of

FAMILIES = [row for row in LANGUAGES if rules_of(row) is not None]


def rules_for(language: str) -> tuple[Language, Rules]:
    row = language_for(language)
    rules = rules_of(row)
    assert rules is not None
    return row, rules


def taken(language: str, text: str, name: str) -> list[str] | None:
    """Names of what a call of the first definition of name gives; a question mark behind what has a default, and a +
    in front of what is taken besides. None where that cannot be told."""
    row, rules = rules_for(language)
    signature = signature_of(row, rules, text, next(definitions_of(rules, text, name)))
    if signature is None:
        return None
    return [f"{each.name}{'?' * each.is_optional}" for each in signature.parameters] + [f"+{m}" for m in signature.more]


@pytest.mark.parametrize(
    ("language", "text", "name", "expected"),
    [
        ("go", "func load(a, b int, opts ...Option) (int, error) {", "load", ["a", "b", "+opts..."]),
        ("go", "func (s *Shop[T]) Sell(ctx context.Context, to func(a, b int) error) error {", "Sell", ["ctx", "to"]),
        ("go", "func Map[K comparable, V any](m map[K]V) []V {", "Map", ["m"]),
        ("go", "type Shop interface {\n\tSell(item, buyer string) error\n}", "Sell", ["item", "buyer"]),
        ("go", "func open() {", "open", []),
        ("go", "func open(string, int) {", "open", None),
        ("rust", "pub(crate) async fn load<'a, T: Into<Option<u8>>>(path: &'a Path, n: [u8; 2]) -> u8 {",
         "load", ["path", "n"]),
        ("rust", "    fn sell(&'a mut self, mut item: T, (a, b): (u8, u8)) where T: Fn(u8) -> u8 {",
         "sell", ["item", ""]),
        ("rust", "    fn sell(self: Arc<Self>, #[cfg(a)] items: &HashMap<u8, T>);", "sell", ["items"]),
        ("java", "    @Override public <T> List<T> load(final @NonNull Path path, Map<K, V> sizes) throws E {",
         "load", ["path", "sizes"]),
        ("java", "    static String of(String format, Object... args) {", "of", ["format", "+args"]),
        ("java", "    public Shop(Owner owner) {", "Shop", ["owner"]),
        ("java", "public record Shop(Owner owner, int[] tills) {", "Shop", ["owner", "tills"]),
        ("java", "    void sell(\n        Item item,\n        Buyer buyer);", "sell", ["item", "buyer"]),
        ("csharp", "    public static T Load<T>(this Shop shop, string path, int size = 3) where T : new()",
         "Load", ["path", "size?"]),
        ("csharp", "    internal async Task<int> Load(in Path path, params int[] sizes) =>",
         "Load", ["path", "+sizes"]),
        ("csharp", "    bool TryLoad([NotNull] string? path, out int size);", "TryLoad", ["path", ""]),
        ("csharp", "    public Shop(Dictionary<string, int> tills) : base(owner)", "Shop", ["tills"]),
        ("c", "static const char *load(const struct path *path, char buf[16], void (*done)(int, void *)) {",
         "load", ["path", "buf", "done"]),
        ("c", "GIT_EXTERN(int) load(unsigned long long size, ...);", "load", ["size"]),
        ("c", "static int\nload (int *a, size_t b)\n{", "load", ["a", "b"]),
        ("c", "int load(void);", "load", []),
        ("c", "int load(\n    char *, size_t);", "load", None),
        ("cpp", "    explicit Shop(const Owner& owner, int till = 0) : owner_(owner) {}", "Shop", ["owner", "till?"]),
        ("cpp", "Status Shop::Sell(Item&& item, const std::map<int, Buyer>& buyers) {", "Sell", ["item", "buyers"]),
        ("cpp", "  virtual std::vector<int> sell(Item* item) const = 0;", "sell", ["item"]),
        ("cuda", "__global__ void scale(float* out, int n) {", "scale", ["out", "n"]),
        ("php", "    public static function load(?string $path, &$size, int|string $mode = 'r', ...$more): ?Shop",
         "load", ["$path", "$size", "$mode?", "+...$more"]),
        ("php", "final class Shop extends Base\n{\n    public function __construct(private Owner $owner) {}\n}",
         "Shop", ["$owner"]),
        ("ruby", "  def self.load(path, size = 3, *rest, mode: 1, **options, &block)",
         "load", ["path", "size?", "?", "+*rest", "+**options", "+&block"]),
        ("ruby", "class Shop < Base::Shop\n  def initialize(owner)\n  end\nend", "Shop", ["owner"]),
        ("lua", "local function load(path, ...)", "load", ["path", "+..."]),
        ("lua", "function Shop.inner:sell(item)", "sell", ["item"]),
        ("lua", "Shop.sell = function(self, item)", "sell", ["item"]),
    ],
)  # fmt: skip
def test_a_definition_says_what_it_takes(language: str, text: str, name: str, expected: list[str] | None) -> None:
    assert taken(language, text, name) == expected


CALLS = {
    "go": """\
	load(a, b)
	if load(a) {
	return Load(a, b)
	x := Load(a, b)
	go Load(a)
	case Load(a):
}, func(a int) {
	Load(func(a int) error {""",
    "rust": """\
    load(a, b);
    if load(a) {
    return load(a);
    let f = |a: u8| load(a);
    Self::load(a)""",
    "java": """\
    load(a, b);
    } else if (a) {
    return load(a);
    throw new Shop(a);
    new Shop(a) {
    ONE(1, 2),
    a = load(b);
    assert load(a);
    super(a, b);
    a.load(
    Shop shop = load(a);
@interface Shop {
 * A comment says (that it is one).""",
    "csharp": """\
    Load(a, b);
    else if (a)
    return Load(a);
    await Load(a);
    new Shop(a)
    using (a)
    Load((a as string), b);
    Load(a as string);
    foreach (var a in b)
    var a = Load(b);
    [Load(a)]""",
    "c": """\
    load(a, b);
    } else if (a) {
    return load(a);
    if (load(a)) {
    a = load(b);
    LOAD(int a);
    return load(sizeof(a), b);
    load(a * b);
    load(a * sizeof(b));
    else load(a);
    load(
    load();""",
    "cpp": """\
    std::load(a, b);
    Shop shop(a, b);
    return Shop(a);
    throw Shop(a);
    delete load(a);
    a << load(b);
    case load(a):
    a.load(b);
    co_await load(a);
    auto a = load(b);""",
    "php": """\
    load($a, $b);
    } elseif ($a) {
    return load($a);
    $this->load($a);
    new Shop($a);
    $f = function ($a) {
    array_map(function ($a) {
    Shop::class;""",
    "ruby": """\
  load(a, b)
  return load(a)
  elsif load(a)
  Shop.new(a)
  class << self
  self.class.load(a)
  a = load(b)""",
    "lua": """\
  load(a, b)
  if load(a) then
  return load(a)
  local a = load(b)
  a = load(function(b)
  Shop:load(a)""",
}


@pytest.mark.parametrize("language", CALLS)
def test_a_line_that_calls_something_defines_nothing(language: str) -> None:
    _, rules = rules_for(language)
    assert [line for line in CALLS[language].split("\n") if defined_in(rules, line)] == []


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "unit",
    ["a", "a ", "a(", "a.", "a::", "<", "a<b>", "a<", "(", "[", "[a] ", "@a(b) ", "*", "a *", "a, ", "a = ", " "],
)
def test_a_long_line_is_gone_through_once(row: Language, unit: str) -> None:
    """A pattern that tried each place anew would take minutes."""
    rules = rules_of(row)
    assert rules is not None
    for before in ("", "    ", "int a(", "fn a<", "func (", "public static <T> ", "def ", "function ", "class A ", "a"):
        line = before + unit * (20_000 // len(unit))
        assert defined_in(rules, line) in line
        assert rules.bases.match(line) is None
        rules.parameter.fullmatch(line[:4_000])


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_no_group_is_repeated_possessively(row: Language) -> None:
    """Python before 3.11.5 misreads one that has choices, and finds nothing."""
    rules = rules_of(row)
    assert rules is not None
    for pattern in (rules.defines, rules.follows, rules.parameter, rules.constructor, rules.bases):
        assert re.search(r"(?<!\\)\)(?:[*+?]|\{[\d,]+\})\+", pattern.pattern) is None


def test_a_definition_knows_whether_it_belongs_to_a_class() -> None:
    """What is called without a receiver has to be free, wherever methods are not called so."""
    lines = {
        "go": {"func load(a int) {": False, "func (s *Shop) load(a int) {": True, "\tLoad(a int) error": True},
        "rust": {"fn load(a: u8) {": False, "    fn load(&self) {": True},
        "java": {"    void load(int a) {": False},
        "csharp": {"    void Load(int a)": False},
        "cpp": {"void Shop::load(int a) {": False, "    void load(int a);": False},
        "php": {"function load($a)": False, "    public function load($a)": True},
        "ruby": {"  def load(a)": False},
        "lua": {"  local function load(a)": False, "function Shop.load(a)": True, "function Shop:load(a)": True},
    }
    for language, expected in lines.items():
        _, rules = rules_for(language)
        for line, is_member in expected.items():
            (found,) = [each for name in ("load", "Load") for each in definitions_of(rules, line, name)]
            assert found.is_member == is_member, line
