"""What differs between programming languages, one table row each: grammar, comments, blocks, strings, holes.

Every other language is the plain-text row: brackets and indentation only. Knows no document and parses nothing.
Grammars are loaded on first use; one that cannot be loaded makes its language plain text rather than an error.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal

import tree_sitter

BlockRule = Literal["indentation", "braces", "none"]

_QUOTES = ('"', "'")
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Language:
    """One row of the table.

    name: this project's name. ids: LSP language identifiers. extensions: with the dot, lower case.
    grammar: "module:function" of a tree-sitter grammar package, or "" for none.
    line_comments, block_comments: the marks that begin one, and pairs of marks around one.
    quotes: string marks, the longest first; multiline_quotes: those of them that may cross a newline.
    literals: patterns of whole literals that the marks alone misread, such as a quote that is a character; tried first.
    is_source: whether people write programs in it: only then are a workspace's files of it read as context, and cut
    into holes by a benchmark that names no language. Data and markup are proposed in, and read while they are open.
    margin_marks: what begins a line that stands at the margin wherever it is. unread: a pattern of ASCII words within
    a line, or of a newline and what follows, that say nothing to a parser and that the grammar stumbles over.
    blocks: how a block is delimited. block_openers: what stands at the end of a line whose block follows; block_words:
    the words that such a line begins with, where the mark alone does not tell (a colon is also a mapping's).
    block_header: a pattern of whole lines whose block follows, where a word says so and no mark (`def f` of Ruby).
    word_blocks: what blocks are opened by, where a word closes them: a pattern of what opens one, a pattern of the word
    that closes it, and what may be written in its stead. word_dues: what may still be due of a header there.
    indent: the indentation of a file that shows none. newline: the line ending of a file that shows none.
    comment_nodes .. keyword_nodes: node types of the grammar. code_in_string: inside of a string they are code again.
    parameter_nodes: lists of parameters. keyword_nodes: arguments that are given by name.
    holes: a tree-sitter query: @hole is replaced, @body is an empty body, @todo is a comment that the code follows.
    """

    name: str
    ids: tuple[str, ...]
    extensions: tuple[str, ...]
    grammar: str = ""
    is_source: bool = True
    line_comments: tuple[str, ...] = ("//",)
    block_comments: tuple[tuple[str, str], ...] = (("/*", "*/"),)
    quotes: tuple[str, ...] = _QUOTES
    multiline_quotes: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    margin_marks: tuple[str, ...] = ()
    unread: str = ""
    blocks: BlockRule = "braces"
    block_openers: tuple[str, ...] = ("{",)
    block_words: frozenset[str] = _NONE
    block_header: str = ""
    word_blocks: tuple[tuple[str, str, str], ...] = ()
    word_dues: tuple[str, ...] = ()
    brackets: tuple[str, ...] = ("()", "[]", "{}")
    indent: str = "    "
    newline: str = "\n"
    comment_nodes: frozenset[str] = _NONE
    string_nodes: frozenset[str] = _NONE
    code_in_string: frozenset[str] = _NONE
    block_nodes: frozenset[str] = _NONE
    definition_nodes: frozenset[str] = _NONE
    import_nodes: frozenset[str] = _NONE
    parameter_nodes: frozenset[str] = _NONE
    keyword_nodes: frozenset[str] = _NONE
    holes: str = ""
    word_extra: str = ""
    """Characters besides letters, digits and the underscore that belong to a word."""

    def is_word(self, char: str) -> bool:
        """Whether char (one code point, or "") is part of an identifier."""
        return bool(char) and (char.isalnum() or char == "_" or char in self.word_extra)

    def load(self) -> tree_sitter.Language | None:
        """The grammar, loaded once a process; None for plain text, or where the grammar package does not work."""
        return _load(self.grammar) if self.grammar else None


@functools.cache
def _load(grammar: str) -> tree_sitter.Language | None:
    module_name, _, function_name = grammar.partition(":")
    try:
        loader: Callable[[], object] = getattr(importlib.import_module(module_name), function_name)
        return tree_sitter.Language(loader())
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        # a broken grammar package must not cost the user the completion itself
        return None


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _bodies(block: str, owners: str) -> str:
    """A query for the empty bodies of these nodes; block: the node type of a body."""
    return "".join(f'({owner} body: ({block} . "{{" . "}}" .) @body)\n' for owner in owners.split())


def _todo(comments: str = "comment") -> str:
    """A query for comments of these node types that ask for code."""
    return "".join(f'(({comment}) @todo (#match? @todo "(TODO|FIXME|XXX)"))\n' for comment in comments.split())


_TODO = _todo()

_PYTHON_HOLES = f"""
((expression_statement (ellipsis)) @hole)
(pass_statement) @hole
((raise_statement (identifier) @_error) @hole (#eq? @_error "NotImplementedError"))
((raise_statement (call function: (identifier) @_error)) @hole (#eq? @_error "NotImplementedError"))
(assignment right: (ellipsis) @hole)
{_TODO}
"""

_JAVASCRIPT_FUNCTIONS = "function_declaration function_expression generator_function_declaration arrow_function"
_JAVASCRIPT_HOLES = f"""
{_bodies("statement_block", f"{_JAVASCRIPT_FUNCTIONS} method_definition")}
((throw_statement (new_expression arguments: (arguments [(string) (template_string)] @_text))) @hole
  (#match? @_text "([Nn]ot (yet )?implemented|TODO)"))
{_TODO}
"""

_GO_HOLES = f"""
{_bodies("block", "function_declaration method_declaration func_literal")}
((expression_statement (call_expression function: (identifier) @_name
  arguments: (argument_list (interpreted_string_literal) @_text))) @hole
  (#eq? @_name "panic") (#match? @_text "([Nn]ot (yet )?implemented|[Uu]nimplemented|TODO|todo)"))
{_TODO}
"""

_RUST_HOLES = f"""
{_bodies("block", "function_item closure_expression")}
((macro_invocation macro: (identifier) @_name) @hole (#any-of? @_name "todo" "unimplemented"))
{_todo("line_comment block_comment")}
"""

_JAVA_HOLES = f"""
{_bodies("block", "method_declaration lambda_expression")}
{_bodies("constructor_body", "constructor_declaration")}
((throw_statement (object_creation_expression type: (type_identifier) @_name)) @hole
  (#match? @_name "^(UnsupportedOperation|NotImplemented)"))
{_todo("line_comment block_comment")}
"""

_C_HOLES = _bodies("compound_statement", "function_definition") + _TODO

_CPP_HOLES = f"""
{_C_HOLES}
{_bodies("compound_statement", "lambda_expression")}
((throw_statement (call_expression arguments: (argument_list (string_literal) @_text))) @hole
  (#match? @_text "([Nn]ot (yet )?implemented|TODO)"))
"""

_PHP_HOLES = _bodies("compound_statement", "function_definition method_declaration anonymous_function") + _TODO

_CSHARP_HOLES = f"""
{_bodies("block", "method_declaration constructor_declaration local_function_statement")}
((throw_statement (object_creation_expression type: (identifier) @_name)) @hole (#match? @_name "^NotImplemented"))
{_TODO}
"""

# each begins with a character, so that the scanner passes by quickly, and looks back from behind it
# after a name, a number or a closing bracket a slash divides, and elements have slashes, too: only where neither can be
_REGEX = (
    r"/(?![*/])(?:(?<=[(\[{,;=:!&|?~]/)|(?<=[(\[{,;=:!&|?~] /)|(?<==> /)|(?<=return /)|(?<=\n/))"
    r"(?:[^/\\\[\n]|\\[^\n]|\[(?:[^\]\\\n]|\\[^\n])*\])+/"
)
_RAW_GO = "`[^`]*`"
_RUST_CHAR = r"'(?:[^'\\\n]|\\(?:u\{[^}\n]*\}|x\w\w|[^\n]))'"
_RAW_RUST = r'r(?<![^\Wbc]r)(?P<hashes>#*)".*?"(?P=hashes)'
_RAW_CPP = r'R"(?P<mark>[^()\\\s"]{0,16})\(.*?\)(?P=mark)"'
_GROUPED_DIGITS = r"\d(?<!\w\d)[\w.]*(?:'\w+)+"
# a macro in front of a type that a name follows, or of the name that a keyword declares: not one that is the type
# itself, nor a value; and one that is a statement
_MACRO_NAME = r"(?=\w*_)[A-Z_][A-Z0-9_]{2,}\b"
_MACRO = (
    rf"\b{_MACRO_NAME}(?=[ \t]+(?:(?:const|volatile)[ \t]+)?"
    r"(?!(?:const|volatile|else|while|and|or|xor|not_eq|bitand|bitor)\b)(?:::)?[A-Za-z_][\w:]*(?:<[^;{}()\n]*>)?"
    r"(?:\s+|\s*[*&]+\s*)[A-Za-z_~:])"
    rf"|(?:(?<=class )|(?<=struct )|(?<=union )|(?<=enum )){_MACRO_NAME}(?=[ \t]+[A-Za-z_][\w:]*\s*(?:\{{|:(?!:)))"
    rf"|(?:(?<=[;{{}}\n]\n)|(?<=[;{{}}\n]\r\n))[ \t]*{_MACRO_NAME}(?: *\([^;{{}}\n]*\))?(?=[ \t]*\r?\n\s*[\w{{}}/#])"
)
_CUDA = (
    r"|__(?:global|device|host|forceinline|noinline|restrict|constant|shared|managed|grid_constant)__"
    r"|__launch_bounds__ *\([^()\n]*\)|<<<[ !#-:=?-~]*>>>"
)
# a line of a notebook that is not Python's: a command of the shell's, or of the notebook's own; not the end of a string
_MAGIC = r"\n(?:!(?!=)|%%?[A-Za-z_])(?![^\n]*(?:\"{3}|'{3}))[ -~\t]*"
_VERBATIM_CSHARP = r'@\$?"(?:[^"]|"")*"'
_HEREDOC_PHP = r"<<<(?P<mark>['\"]?)(?P<word>\w+)(?P=mark)\r?\n.*?\n[ \t]*(?P=word)\b"
# what goes on behind its mark with brackets is read, as they may close what stands before it. Its end is looked for in
# 200 lines: a shift of Ruby, or an append, has none, and a file may have many of them
_HEREDOC = (
    r"<<(?<!<<<)[~-]?(?P<mark>['\"]?)(?P<word>[A-Z_]\w*)(?P=mark)[^\n'\"()\[\]{}]*\n"
    r"(?:[^\n]*\n){0,200}?[ \t]*(?P=word)\b"
)
# words, strings and patterns between marks of one's own; behind a value it divides
_PERCENT_RUBY = (
    r"%(?<![\w)\]}]%)(?:[qQrwWiIsx]?"
    r"(?:\((?:[^()\\]|\\.)*\)|\[(?:[^\[\]\\]|\\.)*\]|\{(?:[^{}\\]|\\.)*\}|<(?:[^<>\\]|\\.)*>)"
    r"|[qQrwWiIsx](?P<around>[/!|@#,])(?:(?!(?P=around))[^\\]|\\.)*(?P=around))"
)
# none within another of its kind, or what is not closed would be looked for from each place anew
_LONG_LUA = r"\[(?P<level>=*)\[(?:(?!\[(?P=level)\[).)*?\](?P=level)\]"
_APOSTROPHE = r"\w'(?=\w)"
_INNER_HASH = r"[^\s\"']#"
# a pattern of `case` closes a bracket that nothing opened
_CASE_BASH = r"(?m:^)[ \t]*[\w.*?@+\"'-][^\s()#|]*+(?:[ \t]*\|[ \t]*[^\s()#|]+)*\)"

# a loop's `do` opens nothing beside it, and `def f = x` has no end
_OPENS_RUBY = (
    r"(?m:^)[ \t]*(?:while|until|for)\b[^\n]*|(?m:^)[ \t]*(?:if|unless|case|begin|class|module)\b(?!:)"
    r"|(?<![.:\w])def\b(?![^\n(]{0,80}(?:\([^\n]{0,200}\))?[ \t]=[ \t])"
    r"|[=(|&<,][ \t]*(?:if|unless|case|begin|while)\b"
    r"|(?<![.:\w])do\b(?=[ \t]*(?:\|[^|\n]*\|)?[ \t]*(?:\n|\Z))"
)
# where a command begins
_COMMAND_BASH = r"(?:(?m:^)|(?<=[;&|(!`{])|\b(?:then|do|else|elif)\b)[ \t]*"

_JAVASCRIPT = Language(
    name="javascript",
    ids=("javascript", "javascriptreact"),
    extensions=(".js", ".mjs", ".cjs", ".jsx"),
    grammar="tree_sitter_javascript:language",
    quotes=('"', "'", "`"),
    multiline_quotes=("`",),
    literals=(_REGEX,),
    indent="  ",
    comment_nodes=_set("comment html_comment"),
    string_nodes=_set("string template_string regex"),
    code_in_string=_set("template_substitution"),
    block_nodes=_set("statement_block class_body switch_body"),
    definition_nodes=_set("function_declaration generator_function_declaration class_declaration method_definition"),
    import_nodes=_set("import_statement"),
    parameter_nodes=_set("formal_parameters"),
    holes=_JAVASCRIPT_HOLES,
    word_extra="$",
)

_TYPESCRIPT = replace(
    _JAVASCRIPT,
    name="typescript",
    ids=("typescript",),
    extensions=(".ts", ".mts", ".cts"),
    grammar="tree_sitter_typescript:language_typescript",
    block_nodes=_JAVASCRIPT.block_nodes | _set("interface_body object_type enum_body"),
    definition_nodes=_JAVASCRIPT.definition_nodes
    | _set("abstract_class_declaration interface_declaration type_alias_declaration enum_declaration")
    | _set("function_signature"),
)

_PLAIN = Language(
    name="text",
    ids=("plaintext", "text"),
    extensions=(".txt",),
    is_source=False,
    line_comments=(),
    block_comments=(),
    # an apostrophe is not a string mark in prose, and unknown languages disagree about the rest
    quotes=(),
    blocks="none",
    block_openers=(":", "{"),
)

LANGUAGES: tuple[Language, ...] = (
    Language(
        name="python",
        ids=("python", "cython", "pyrex"),
        extensions=(".py", ".pyi", ".pyw"),
        grammar="tree_sitter_python:language",
        line_comments=("#",),
        block_comments=(),
        quotes=('"""', "'''", '"', "'"),
        multiline_quotes=('"""', "'''"),
        unread=_MAGIC,
        blocks="indentation",
        block_openers=(":",),
        block_words=_set("async case class def elif else except finally for if match try while with"),
        comment_nodes=_set("comment"),
        string_nodes=_set("string"),
        code_in_string=_set("interpolation"),
        block_nodes=_set("block"),
        definition_nodes=_set("function_definition class_definition"),
        import_nodes=_set("import_statement import_from_statement future_import_statement"),
        parameter_nodes=_set("parameters lambda_parameters"),
        keyword_nodes=_set("keyword_argument"),
        holes=_PYTHON_HOLES,
    ),
    _JAVASCRIPT,
    _TYPESCRIPT,
    replace(
        _TYPESCRIPT,
        name="tsx",
        ids=("typescriptreact",),
        extensions=(".tsx",),
        grammar="tree_sitter_typescript:language_tsx",
    ),
    Language(
        name="go",
        ids=("go",),
        extensions=(".go",),
        grammar="tree_sitter_go:language",
        quotes=('"', "'", "`"),
        multiline_quotes=("`",),
        literals=(_RAW_GO,),
        indent="\t",
        comment_nodes=_set("comment"),
        string_nodes=_set("interpreted_string_literal raw_string_literal rune_literal"),
        block_nodes=_set("block field_declaration_list interface_type")
        | _set("expression_switch_statement type_switch_statement select_statement"),
        definition_nodes=_set("function_declaration method_declaration type_declaration"),
        import_nodes=_set("import_declaration package_clause"),
        parameter_nodes=_set("parameter_list"),
        holes=_GO_HOLES,
    ),
    Language(
        name="rust",
        ids=("rust",),
        extensions=(".rs",),
        grammar="tree_sitter_rust:language",
        # a single quote may be a lifetime, so it is no string mark for the scanner
        quotes=('"',),
        multiline_quotes=('"',),
        literals=(_RUST_CHAR, _RAW_RUST),
        comment_nodes=_set("line_comment block_comment"),
        string_nodes=_set("string_literal raw_string_literal char_literal"),
        block_nodes=_set("block declaration_list field_declaration_list match_block enum_variant_list"),
        definition_nodes=_set("function_item struct_item enum_item trait_item impl_item function_signature_item"),
        import_nodes=_set("use_declaration"),
        parameter_nodes=_set("parameters closure_parameters"),
        holes=_RUST_HOLES,
    ),
    Language(
        name="java",
        ids=("java",),
        extensions=(".java",),
        grammar="tree_sitter_java:language",
        quotes=('"""', '"', "'"),
        multiline_quotes=('"""',),
        comment_nodes=_set("line_comment block_comment"),
        string_nodes=_set("string_literal character_literal"),
        code_in_string=_set("string_interpolation"),
        block_nodes=_set("block class_body interface_body constructor_body enum_body switch_block"),
        definition_nodes=_set("method_declaration constructor_declaration class_declaration interface_declaration"),
        import_nodes=_set("import_declaration package_declaration"),
        parameter_nodes=_set("formal_parameters"),
        holes=_JAVA_HOLES,
    ),
    Language(
        name="c",
        ids=("c",),
        extensions=(".c",),
        grammar="tree_sitter_c:language",
        literals=(_GROUPED_DIGITS,),
        margin_marks=("#",),
        unread=_MACRO,
        comment_nodes=_set("comment"),
        string_nodes=_set("string_literal char_literal system_lib_string"),
        block_nodes=_set("compound_statement field_declaration_list enumerator_list"),
        definition_nodes=_set("function_definition struct_specifier enum_specifier type_definition"),
        import_nodes=_set("preproc_include"),
        parameter_nodes=_set("parameter_list"),
        holes=_C_HOLES,
    ),
    Language(
        name="cpp",
        ids=("cpp", "cuda-cpp", "cuda", "objective-cpp", "objcpp"),
        # the grammar of C does not know C++, which most headers may be; this one knows both
        extensions=(".cpp", ".cc", ".cxx", ".h", ".hpp", ".hh", ".hxx", ".cu", ".cuh"),
        grammar="tree_sitter_cpp:language",
        literals=(_RAW_CPP, _GROUPED_DIGITS),
        margin_marks=("#",),
        unread=_MACRO + _CUDA,
        comment_nodes=_set("comment"),
        string_nodes=_set("string_literal char_literal raw_string_literal system_lib_string"),
        block_nodes=_set("compound_statement field_declaration_list declaration_list enumerator_list"),
        definition_nodes=_set("function_definition struct_specifier class_specifier enum_specifier"),
        import_nodes=_set("preproc_include using_declaration"),
        parameter_nodes=_set("parameter_list"),
        holes=_CPP_HOLES,
    ),
    Language(
        name="csharp",
        ids=("csharp", "cs"),
        extensions=(".cs", ".csx"),
        grammar="tree_sitter_c_sharp:language",
        quotes=('"""', '"', "'"),
        multiline_quotes=('"""',),
        literals=(_VERBATIM_CSHARP,),
        comment_nodes=_set("comment"),
        string_nodes=_set("string_literal verbatim_string_literal raw_string_literal character_literal")
        | _set("interpolated_string_expression"),
        code_in_string=_set("interpolation"),
        block_nodes=_set("block declaration_list accessor_list enum_member_declaration_list switch_body"),
        definition_nodes=_set("method_declaration constructor_declaration property_declaration class_declaration")
        | _set("interface_declaration struct_declaration record_declaration enum_declaration local_function_statement"),
        import_nodes=_set("using_directive"),
        parameter_nodes=_set("parameter_list"),
        holes=_CSHARP_HOLES,
    ),
    Language(
        name="php",
        ids=("php",),
        extensions=(".php",),
        grammar="tree_sitter_php:language_php",
        # a hash may also begin an attribute
        quotes=('"', "'"),
        multiline_quotes=('"', "'"),
        literals=(_HEREDOC_PHP,),
        comment_nodes=_set("comment"),
        string_nodes=_set("string encapsed_string heredoc nowdoc"),
        block_nodes=_set("compound_statement declaration_list enum_declaration_list match_block switch_block"),
        definition_nodes=_set("function_definition method_declaration class_declaration interface_declaration")
        | _set("trait_declaration enum_declaration"),
        import_nodes=_set("namespace_use_declaration"),
        parameter_nodes=_set("formal_parameters"),
        holes=_PHP_HOLES,
        word_extra="$",
    ),
    Language(
        name="ruby",
        ids=("ruby",),
        extensions=(".rb", ".rake", ".gemspec"),
        grammar="tree_sitter_ruby:language",
        line_comments=("#",),
        block_comments=(("=begin", "=end"),),
        multiline_quotes=_QUOTES,
        literals=(_HEREDOC, _PERCENT_RUBY, _REGEX),
        blocks="none",
        block_header=r"\s*(?:def|class|module|if|unless|while|until|case|for|begin|else|elsif|when|in|rescue|ensure)\b"
        r"(?!.*\bend$).*|.*\bdo(?:\s*\|[^|]*\|)?",
        word_blocks=((_OPENS_RUBY, r"(?<![.:@$\w])end\b(?![?!:])", "\nend"),),
        word_dues=(",", " then"),
        indent="  ",
        comment_nodes=_set("comment"),
        string_nodes=_set("string heredoc_body regex subshell string_array symbol_array delimited_symbol"),
        code_in_string=_set("interpolation"),
        block_nodes=_set("do_block block body_statement"),
        definition_nodes=_set("method singleton_method class module"),
        parameter_nodes=_set("method_parameters block_parameters lambda_parameters"),
        holes=_TODO,
    ),
    Language(
        name="lua",
        ids=("lua", "luau"),
        extensions=(".lua",),
        grammar="tree_sitter_lua:language",
        line_comments=("--",),
        block_comments=(("--[[", "]]"),),
        literals=(_LONG_LUA,),
        blocks="none",
        block_header=r".*\b(?:function\b[^()]*\([^()]*\)|then|do|else|repeat)",
        word_blocks=(
            # a loop's header ends with a `do`, which may stand below it
            (r"\b(?:function|if|do)\b", r"\bend\b", "\nend"),
            (r"\brepeat\b", r"\buntil\b", "\nuntil true"),
        ),
        word_dues=(",", " then", " do\nend", "()"),
        indent="  ",
        comment_nodes=_set("comment"),
        string_nodes=_set("string"),
        block_nodes=_set("block"),
        definition_nodes=_set("function_declaration"),
        parameter_nodes=_set("parameters"),
        holes=_TODO,
    ),
    Language(
        name="bash",
        ids=("shellscript", "bash", "sh", "zsh"),
        extensions=(".sh", ".bash"),
        grammar="tree_sitter_bash:language",
        line_comments=("#",),
        block_comments=(),
        multiline_quotes=_QUOTES,
        literals=(r"\$\{[^}\n]*\}", r"\$#", _HEREDOC, _CASE_BASH, _INNER_HASH),
        blocks="none",
        block_header=r".*\b(?:then|do|else|in)",
        word_blocks=(
            (rf"{_COMMAND_BASH}if\b(?!=)", rf"{_COMMAND_BASH}fi\b(?!=)", "\n:\nfi"),
            (rf"{_COMMAND_BASH}(?:for|while|until|select)\b(?!=)", rf"{_COMMAND_BASH}done\b(?!=)", "\n:\ndone"),
            (rf"{_COMMAND_BASH}case\b(?!=)", rf"{_COMMAND_BASH}esac\b(?!=)", "\nesac"),
        ),
        word_dues=("; then", "; do", " in", "; do :\ndone; then", ";;"),
        comment_nodes=_set("comment"),
        string_nodes=_set("string raw_string ansi_c_string heredoc_body"),
        code_in_string=_set("command_substitution expansion"),
        block_nodes=_set("compound_statement do_group"),
        definition_nodes=_set("function_definition"),
        holes=_TODO,
    ),
    Language(
        name="css",
        ids=("css",),
        extensions=(".css",),
        grammar="tree_sitter_css:language",
        is_source=False,
        line_comments=(),
        indent="  ",
        comment_nodes=_set("comment js_comment"),
        string_nodes=_set("string_value"),
        block_nodes=_set("block keyframe_block_list"),
        holes=_TODO,
        word_extra="-",
    ),
    Language(
        name="html",
        ids=("html", "htmldjango"),
        extensions=(".html", ".htm"),
        grammar="tree_sitter_html:language",
        is_source=False,
        line_comments=(),
        block_comments=(("<!--", "-->"),),
        literals=(_APOSTROPHE,),
        blocks="none",
        block_openers=(),
        indent="  ",
        comment_nodes=_set("comment"),
        string_nodes=_set("quoted_attribute_value"),
        holes=_TODO,
        word_extra="-",
    ),
    Language(
        name="json",
        ids=("json", "jsonc"),
        extensions=(".json", ".jsonc"),
        grammar="tree_sitter_json:language",
        is_source=False,
        quotes=('"',),
        block_openers=("{", "["),
        indent="  ",
        comment_nodes=_set("comment"),
        string_nodes=_set("string"),
        block_nodes=_set("object array"),
        holes=_TODO,
    ),
    Language(
        name="toml",
        ids=("toml",),
        extensions=(".toml",),
        grammar="tree_sitter_toml:language",
        is_source=False,
        line_comments=("#",),
        block_comments=(),
        quotes=('"""', "'''", '"', "'"),
        multiline_quotes=('"""', "'''"),
        blocks="none",
        block_openers=("[", "{"),
        comment_nodes=_set("comment"),
        string_nodes=_set("string quoted_key"),
        block_nodes=_set("array inline_table"),
        holes=_TODO,
    ),
    Language(
        name="yaml",
        ids=("yaml", "dockercompose", "github-actions-workflow"),
        extensions=(".yaml", ".yml"),
        grammar="tree_sitter_yaml:language",
        is_source=False,
        line_comments=("#",),
        block_comments=(),
        literals=(_INNER_HASH, _APOSTROPHE),
        margin_marks=("---",),
        # its indentation goes deeper below a dash, too, which the rules for indented blocks do not know
        blocks="none",
        block_openers=(":", ": |", ": >", "[", "{"),
        indent="  ",
        comment_nodes=_set("comment"),
        string_nodes=_set("double_quote_scalar single_quote_scalar block_scalar"),
        block_nodes=_set("flow_mapping flow_sequence"),
        holes=_TODO,
        word_extra="-",
    ),
    _PLAIN,
)

PLAIN_TEXT = LANGUAGES[-1]

_BY_ID = {language_id: row for row in LANGUAGES for language_id in (row.name, *row.ids)}
_BY_EXTENSION = {extension: row for row in LANGUAGES for extension in row.extensions}


def language_for(language_id: str, path: str = "") -> Language:
    """The row of an LSP language identifier; by the path's extension where that is empty; plain text otherwise."""
    return _BY_ID.get(language_id.lower(), PLAIN_TEXT) if language_id else language_for_path(path)


def language_for_path(path: str) -> Language:
    """The row for a file name, for the command line; plain text where the extension is unknown."""
    return _BY_EXTENSION.get(PurePath(path).suffix.lower(), PLAIN_TEXT)
