"""How functions and classes are defined and called besides in Python and JavaScript, a row a family: see Rules.

Where types stand before names, a line that defines a method differs from one that calls it by its types alone, so what
comes back has to have its type in that line, and the first parameter, too, unless it is in the next one. Constructors
of Java, C# and C++ are functions of their class's name.

What may repeat is possessive (`++`) or atomic (`(?>...)`): most lines define nothing, and none is gone through twice.
Only single characters are possessive, because Python before 3.11.5 misreads a group that is. How something is called
is looked for in the line that is being written alone, of which calls.py reads no more than MAX_HEAD_CHARS.
"""

from __future__ import annotations

import re

from .parameters import Rules

_NOTHING = re.compile(r"(?!)")
_ANYTHING = re.compile("")
_NO_REST = "(?P<rest>(?!))?"
_NO_DEFAULT = "(?P<default>(?!))?"
"""Groups that a pattern of parameters has to have, for languages without."""
_NO_BASE = "(?!)"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _callee(own: str, base: str, mark: str) -> re.Pattern[str]:
    """What is called (Rules.callee): by patterns of the own object, of its base, and of what stands before a member."""
    return re.compile(
        rf"(?P<dot>(?:(?<![\w$.>:])(?:(?P<own>{own})|(?P<super>{base}))|[\w$)\]\"'`!>?])(?:{mark}))?"
        r"(?<![\w$])(?P<name>[A-Za-z_$][\w$]*)\Z"
    )


_GO = Rules(
    languages=("go",),
    defines=re.compile(
        r"""func[ \t]+(?:(?P<f>\w++)|\([^()\n]*+\)[ \t]*+(?P<member>\w++))[ \t]*+(?:\[[^\]\n]*+\])?\(
            # a method of an interface: nothing but its types tells it from a call
            |[ \t]++(?P<member1>[A-Z]\w*+)\((?=\w++(?>(?:,[ \t]*+\w++)*)[ \t]++(?:\.\.\.)?[\w*\[.])""",
        re.VERBOSE,
    ),
    follows=_ANYTHING,
    # one that has no name is called like its type. `a ...T` is handed on as `a...`, hence what is rest and what name
    parameter=re.compile(
        r"(?!(?:any|bool|byte|error|float\d\d|interface|rune|string|struct|u?int\d*|uintptr|func|map|chan)\b)"
        rf"{_NO_DEFAULT}(?:(?P<rest>\w++)\s++(?=\.\.\.))?(?P<name>\.\.\.|\w++)(?:(?:(?<=\.)|\s).*)?",
        re.DOTALL,
    ),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=frozenset(),
    builtin=_words(
        """
        Add Bool Bytes Cancel Close Code Contains Context Copy Done Elem Equal Err Error Errorf Exit Fatal Fatalf Field
        Find Flush Format Get Header Index Info Init Int Interface Join Kind Len Less Load Lock Log Make Match Name New
        Next Open Parse Print Printf Println RLock RUnlock Read Remove Replace Reset Run Scan Seek Send Set Size Sort
        Split Start Stop Store String Sub Swap Time Trim Type Unlock Unwrap Value Wait Write WriteString
        """
    ),
    weights="more",
    leaves_empty="certain",
    declares=re.compile(r"\bfunc[ \t]*\([^()]*\)[ \t]*\w+\Z"),
    owner=re.compile(r"(?<![\w.)\]])([A-Za-z_]\w*)\.\Z"),
    reach="folder",
    end="",
    header_ends=(
        (re.compile(r"\s*(?:\}\s*else\s+)?if\s++(?:[^:]*,\s*+)?(\w*[eE]rr)\s*+:="), "", r"; \1 != nil {"),
        (re.compile(r"\s*(?:\}\s*else\s+)?if\s++(?:[^:]*,\s*+)?(\w++)\s*+:="), "", r"; \1 {"),
        (re.compile(r"\s*(?:\}\s*else\s+)?(?:if|for|switch)\b"), "", " {"),
    ),
)

_RUST = Rules(
    languages=("rust",),
    defines=re.compile(
        r"""[ \t]*+(?:pub(?:\([^()\n]*+\))?[ \t]+)?(?>(?:(?:default|const|async|unsafe|extern(?:[ \t]+"\w*+")?)[ \t]+)*)
            fn[ \t]+(?P<f>\w++)[ \t]*+(?:<[^\n]*?>)?\(""",
        re.VERBOSE,
    ),
    follows=_ANYTHING,
    parameter=re.compile(
        r"(?>(?:\#\[[^\]]*+\]\s*+)*)(?:&\s*+(?:'\w++\s++)?)?(?:mut\s++)?"
        rf"(?P<name>[a-z_]\w++|[a-z]|){_NO_REST}{_NO_DEFAULT}[^:]*+(?::.*)?",
        re.DOTALL,
    ),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=_words("self"),
    builtin=_words(
        """
        all and and_then any append as_bytes as_mut as_ref as_slice as_str borrow chain chars clear clone cloned cmp
        collect contains contains_key copied count default drain entry enumerate eq err expect extend filter filter_map
        find first flat_map flatten flush fmt fold for_each from from_str get get_mut get_or_insert_with hash insert
        into into_iter is_empty is_err is_none is_ok is_some iter iter_mut join keys last len lock map map_err max min
        new next ok ok_or ok_or_else or or_else or_insert parse partial_cmp peek poll pop position push push_str read
        recv remove replace reserve resize rev send skip sort split starts_with store take to_owned to_string
        to_vec trim truncate try_from unwrap unwrap_or unwrap_or_default unwrap_or_else values with_capacity write
        write_all write_str zip
        """
    ),
    weights="more",
    leaves_empty="certain",
    callee=_callee(r"self(?=\.)|Self(?=::)", _NO_BASE, r"\??\.|::"),
    marks=("::",),
    owner=re.compile(r"(?!(?:self|crate|super)::)\b([A-Za-z_]\w*)(?:(?:::)?<[^<>()]*>)?::\Z"),
    member="self.",
    end=";",
    header_ends=(
        (re.compile(r"\s*(?:\}\s*else\s+)?(?:if|for|while|match)\b"), "", " {"),
        (re.compile(r"(?=[^{]*\Z).*=>"), "", ","),
    ),
    value=re.compile(r".*\bfn\b(?P<none>(?!.*->).*\{\s*\Z)?"),
)

# behind these words something is called, and none of them is a type
_STATEMENT = (
    r"(?!(?:and|as|assert|await|case|catch|co_await|co_return|co_yield|delete|do|else|for|from|goto|if|import|in"
    r"|instanceof|is|lock|new|not|operator|or|out|package|ref|return|select|sizeof|switch|throw|typedef|using|where"
    r"|while|yield)\b)"
)
_DECLARES = (
    rf"(?<![\w$.]){_STATEMENT}(?!\d)[\w$]+(?:<[^()]*>)?[?*&]*(?:\[\])*\s+[*&]*(?:\w+::)*~?[\w$]+\Z"
    r"|(?<![\w$.])[A-Z_]{4,}\([\w ]*\)\s+[*&]*\w+\Z|\b(\w+)::~?\1\Z|^[ \t]*~\w+\Z"
)
"""Rules.declares: a type, or what ends one, stands before what is declared."""
_FIELD = (
    r"(?m)^[ \t]++(?P<open>(?:private|protected|public|internal)[ \t]++)?"
    r"(?>(?:(?:private|protected|public|internal|static|final|readonly|const|volatile)[ \t]++)*)(?!return\b)"
    r"[\w.:]++(?:<[^;=\n]*>)?[\[\]?*& \t]++(?P<name>m?_NAME_?|NAME_|(?(open)NAME|(?!)))[ \t]*+[;=]"
)
"""Rules.field: one that is called like NAME alone, and not open to anybody, may be another function's own."""
_HEADER = r"\s*(?:\}\s*)?(?:else\s*)?(?:if|while|for|foreach|switch|using|lock|elseif|synchronized|catch)\b"
_HEADER_ENDS = ((re.compile(_HEADER), ")", " {"),)
_TYPE = r"[\w.$]++(?:<[^()\n;=]*>)?\??+(?>(?:\[[,\t ]*+\]\??+)*)"
_ANNOTATIONS = r"(?>(?:@(?!interface\b)[\w.]++(?:\([^()\n]*+\))?[ \t]*+)*)"
_FINAL = r"(?:final[ \t]+)?"
_JAVA_FIRST = rf"{_FINAL}{_ANNOTATIONS}{_FINAL}[\w.$]++(?:<[^();=\n]*?>)?(?>(?:\[\]|\.\.\.|[ \t])+)[\w@]"
_JAVA = Rules(
    languages=("java",),
    defines=re.compile(
        rf"""[ \t]*+{_ANNOTATIONS}
            (?>(?:(?:public|private|protected|static|final|abstract|synchronized|native|default|strictfp)[ \t]++)*)
            (?:<[^()\n]*?>[ \t]++)?{_STATEMENT}
            (?:{_TYPE}[ \t]++(?P<free>[A-Za-z_$][\w$]*+)[ \t]*+\((?=[ \t]*+(?:\)|\r?$|{_JAVA_FIRST}))
            |(?P<free1>[A-Z][\w$]*+)[ \t]*+\((?=[ \t]*+(?:\)[^;\n]*+(?<=\{{)|{_JAVA_FIRST})))""",
        re.VERBOSE | re.MULTILINE,
    ),
    follows=_ANYTHING,
    # `T... a` is handed on as `a`, and rest may not be empty: it has the first letter
    parameter=re.compile(
        rf"(?:(?P<dots>.*\.\.\.\s*+)|.*[\s>\]]){_NO_DEFAULT}"
        r"(?P<rest>(?(dots)[\w$]|))(?P<name>(?(dots)[\w$]*+|[\w$]++))(?>(?:\s*+\[\])*)",
        re.DOTALL,
    ),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=frozenset(),
    builtin=_words(
        """
        accept add addAll append apply charAt clear close collect compareTo compute computeIfAbsent contains containsKey
        equals filter flatMap flush forEach format get getClass getKey getName getOrDefault getValue hasNext hashCode
        indexOf insert isEmpty iterator join keySet length map matches next of ordinal orElse parse print printf println
        put putAll read remove replace run set setLength size sort split startsWith endsWith stream submit substring
        test toArray toLowerCase toString toUpperCase trim valueOf values write
        """
    ),
    weights="more",
    leaves_empty="certain",
    declares=re.compile(_DECLARES),
    owner=re.compile(r"\b([A-Z]\w*)\.\Z"),
    field=_FIELD,
    end=";",
    header_ends=_HEADER_ENDS,
    brace_below=True,
)

_CSHARP_FIRST = (
    r"(?:\[[^\]\n]*+\][ \t]*+)?(?>(?:(?:this|ref|out|in|params|scoped|readonly)[ \t]++)*)"
    r"(?:[\w.]++(?:<[^();=\n]*?>)?(?>(?:\?|\[[,\t ]*+\]|[ \t*])+)[\w@])"
)
_CSHARP = Rules(
    languages=("csharp",),
    defines=re.compile(
        rf"""[ \t]*+(?>(?:\[[^\]\n]*+\][ \t]*+)*)
            (?>(?:(?:public|private|protected|internal|static|virtual|override|abstract|sealed|async|extern|unsafe|new
            |partial|readonly|ref)[ \t]++)*){_STATEMENT}
            (?:(?:{_TYPE}|\([^()\n]*+\)\??+)[ \t]++(?P<free>\w++)[ \t]*+(?:<[^()\n]*?>[ \t]*+)?
             \((?=[ \t]*+(?:\)|\r?$|{_CSHARP_FIRST}))
            |(?P<free1>[A-Z]\w*+)[ \t]*+
             \((?=[ \t]*+(?:\)[ \t]*+(?:\{{|:|\r?$)|(?![\w.]++[ \t]++(?:as|is)\b){_CSHARP_FIRST})))""",
        re.VERBOSE | re.MULTILINE,
    ),
    follows=_ANYTHING,
    # `params` as Java's dots. What is handed over as `ref a` or `out a` has no name that would do. An extension method
    # is called on its first parameter, which is named `this `
    parameter=re.compile(
        r"(?:\[[^\]]*+\]\s*+)?(?:(?=this\s)|(?P<marked>(?:ref|out)\s.*)|(?P<params>params\s)?[^=]*[\s>\]?)*])"
        r"(?P<rest>(?(params)\w|))(?P<name>(?(marked)|(?:this\s|(?(params)\w*+|[\w@]++))))"
        r"(?:(?<=this\s).*|\s*+(?P<default>=.*)?)",
        re.DOTALL,
    ),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=frozenset(("this ",)),
    builtin=_words(
        """
        Add AddRange All Any Append AppendLine Cast Clear Close Compare CompareTo Concat Contains ContainsKey Copy
        CopyTo Count Create Dispose Distinct EndsWith Equals First FirstOrDefault Flush Format Get GetEnumerator
        GetHashCode GetType GetValue IndexOf Insert Invoke Join Last Max Min MoveNext OrderBy Parse Peek Pop Push Read
        Remove RemoveAt Replace Reset Reverse Select SelectMany SequenceEqual Set SetValue Single Skip Sort Split
        StartsWith Substring Sum Take ToArray ToList ToLower ToString ToUpper Trim TryGetValue TryParse Where Write
        WriteLine
        """
    ),
    weights="more",
    leaves_empty="certain",
    callee=_callee("this", "base", r"\??\."),
    declares=re.compile(_DECLARES),
    owner=re.compile(r"\b([A-Z]\w*)(?:<[^<>()]*>)?\.\Z"),
    field=_FIELD,
    end=";",
    header_ends=_HEADER_ENDS,
    brace_below=True,
)

_C_FIRST = (
    r"(?>(?:(?:const|struct|enum|union|unsigned|register|volatile)[ \t]++)*)"
    r"[A-Za-z_][\w:]*+(?:<[^();=\n]*?>)?"
    r"(?:[ \t]++(?:const\b[ \t]*+)?[*&]*+|[*&]++(?:[ \t]*+const\b)?[ \t]*+)[A-Za-z_]"
)
_C_NO_NAME = (
    r"(?!(?:int|char|long|short|unsigned|signed|float|double|void|bool|const|auto|struct|enum|union|restrict|volatile"
    r"|u?int\d*_t|size_t)\b)"
)
_C = Rules(
    languages=("c", "cpp"),
    defines=re.compile(
        rf"""[ \t]*+{_STATEMENT}(?:
            (?>(?:(?:[A-Z][A-Z\d_]++\(\w[\w \t*]*+\)(?=[ \t])|[A-Za-z_]\w*+)(?>(?:::\w++|<[^()\n;=]*>)*)
              (?:[ \t]++(?!\()[*&]*+|[*&]++[ \t]*+)){{1,8}})
             (?:(?>(?:\w++(?:<[^()\n]*?>)?::)+)~?+(?P<free2>\w++)|(?P<free>[A-Za-z_]\w*+))
             [ \t]*+\((?=[ \t]*+(?:\)|void[ \t]*+\)|\r?$|\w++[ \t]++[*&]|{_C_FIRST}))
            |(?>(?:\w++::)*)(?![A-Z_\d]++\()(?P<free1>[A-Za-z_]\w*+)[ \t]*+\((?=[ \t]*+{_C_FIRST}))""",
        re.VERBOSE | re.MULTILINE,
    ),
    follows=_ANYTHING,
    parameter=re.compile(
        rf"(?P<rest>\.\.\.)|(?:(?=void\Z)|[^=]*[\s*&>\](]{_C_NO_NAME})(?P<name>[A-Za-z_]\w*+)"
        r"(?:\)\s*+\(.*\)|\s*+(?>(?:\[[^\]]*+\])*))\s*+(?P<default>=.*)?",
        re.DOTALL,
    ),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=_words("void"),
    builtin=_words(
        """
        append assign at back begin c_str clear close compare count data emplace emplace_back empty end erase find
        first flush front get insert join length load lock max min open pop pop_back print push push_back read release
        reserve reset resize set size sort store str substr swap top unlock wait write
        """
    ),
    weights="more",
    leaves_empty="certain",
    callee=_callee("this", _NO_BASE, r"\.|->|::"),
    marks=("->", "::"),
    # an initializer of a constructor is no call, either
    declares=re.compile(_DECLARES + r"|(?:^|\))[ \t]*:[ \t][^?]*\Z"),
    owner=re.compile(r"\b([A-Za-z_]\w*)(?:<[^<>()]*>)?::\Z"),
    field=_FIELD,
    end=";",
    header_ends=_HEADER_ENDS,
    brace_below=True,
)

_PHP = Rules(
    languages=("php",),
    defines=re.compile(
        r"""[ \t]*+(?:(?>(?:(?:public|private|protected|static|abstract|final)[ \t]++)*)
             function[ \t]++&?+(?P<f>\w++)[ \t]*+\(
            |(?>(?:(?:abstract|final|readonly)[ \t]++)*)class[ \t]++(?P<class>\w++))""",
        re.VERBOSE,
    ),
    follows=_ANYTHING,
    parameter=re.compile(
        r"(?:\#\[[^\]]*+\]\s*+)?[^$=.]*+(?P<rest>\.\.\.)?(?P<name>\$\w++)\s*+(?P<default>=.*)?", re.DOTALL
    ),
    constructor=re.compile(
        r"^[ \t]++(?>(?:(?:public|private|protected|final)[ \t]++)*)function[ \t]++__construct[ \t]*+\(", re.MULTILINE
    ),
    bases=re.compile(r"[^\n{]*?\bextends[ \t]++(?>(?:\w*+\\)*)(\w++)"),
    own=_words("$this"),
    builtin=_words(
        """
        add all append clear close contains count create current each end exists fetch filter first format get getCode
        getIterator getMessage getName has indexOf insert isEmpty jsonSerialize key last make map merge next offsetGet
        offsetSet parse prepend push query read remove render replace reset rewind run send set size sort test toArray
        toString valid write
        """
    ),
    weights="more",
    leaves_empty="certain",
    callee=_callee(r"\$this(?=->)|(?:self|static)(?=::)", "parent(?=::)", r"\??->|::"),
    marks=("->", "::"),
    owner=re.compile(r"\b([A-Za-z_]\w*)::\Z"),
    member="$this->",
    sigil="$",
    end=";",
    header_ends=_HEADER_ENDS,
    brace_below=True,
)

_RUBY = Rules(
    languages=("ruby",),
    defines=re.compile(
        r"""[ \t]*+(?:(?:(?:private|protected|public|module_function|private_class_method)[ \t]++)?def[ \t]++
             (?:\w++\.)?(?P<free>\w++)[?!]?+\(
            |class[ \t]++(?>(?:\w++::)*)(?P<class>[A-Z]\w*+))""",
        re.VERBOSE,
    ),
    follows=_ANYTHING,
    # what is given as `a: value` has no name here
    parameter=re.compile(
        r"(?P<rest>\*{1,2}|&)?(?P<keyword>\w++:)?\s*+(?P<name>(?(keyword)|\w*+))\s*+(?P<default>(?(keyword).+|=.*))?",
        re.DOTALL,
    ),
    constructor=re.compile(r"^[ \t]++def[ \t]++initialize\(", re.MULTILINE),
    bases=re.compile(r"[ \t]*+class[ \t]++[\w:]++[ \t]*+<[ \t]*+(?>(?:\w++::)*)([A-Z]\w*+)"),
    own=frozenset(),
    builtin=_words(
        """
        add all any append call clear close collect compact concat count delete detect dig dup each empty end_with fetch
        filter find first flatten flush format get gsub has_key include index inject insert inspect instance_eval
        instance_variable_get instance_variable_set is_a join key keys last length map match max merge min new next open
        pack parse pop print push puts raise read reduce reject replace respond_to reverse round scan select send set
        shift slice sort split start_with sub sum tap test to_a to_h to_i to_s tr unshift update values write zip
        """
    ),
    weights="more",
    callee=_callee("self", _NO_BASE, r"&?\.|::"),
    makes=re.compile(r"\b([A-Z]\w*)\.new\Z"),
    owner=re.compile(r"\b([A-Z]\w*)(?:\.|::)\Z"),
    # without arguments it has no brackets
    leaves_empty="none",
    end="",
)

_LUA = Rules(
    languages=("lua",),
    defines=re.compile(
        r"""[ \t]*+(?:(?:local[ \t]++)?function[ \t]++(?:(?>(?:\w++[.:])+)(?P<member>\w++)|(?P<free>\w++))
            |(?:local[ \t]++(?P<free1>\w++)|(?>(?:\w++[.:])+)(?P<member1>\w++)|(?P<f>\w++))
             [ \t]*+=[ \t]*+function)[ \t]*+\(""",
        re.VERBOSE,
    ),
    follows=_ANYTHING,
    # rest and name are `...` together
    parameter=re.compile(rf"{_NO_DEFAULT}(?:(?P<rest>\.\.)(?=\.)|)(?P<name>\w++|(?<=\.)\.)"),
    constructor=_NOTHING,
    bases=_NOTHING,
    own=_words("self"),
    builtin=_words(
        """
        byte char close concat find flush format get gmatch gsub insert len lines lower match new open pairs print read
        remove rep reverse seek set sort split sub tostring unpack upper write
        """
    ),
    weights="more",
    leaves_empty="certain",
    callee=_callee("self", _NO_BASE, r"[.:]"),
    owner=re.compile(r"(?<![\w.:)\]])([A-Za-z_]\w*)\.\Z"),
    reach="file",
    member="self.",
    header_ends=(
        (re.compile(r"\s*(?:else)?if\b"), "", " then"),
        (re.compile(r"\s*(?:for|while)\b"), "", " do"),
    ),
)

MORE: tuple[Rules, ...] = (_GO, _RUST, _JAVA, _CSHARP, _C, _PHP, _RUBY, _LUA)
"""Rows that definitions.py takes in."""
