"""Ghost text in a real Neovim: shown, typed along, accepted whole and in pieces, cycled, dismissed, out of the way.

Each test ends in an assertion on the buffer's bytes or on the extmark that draws the text.
"""

import time

import pytest
from nvim_driver import until

pytestmark = [pytest.mark.editor]

MULTI = "def multi(a, b):\n    x = a\n    return x + b"


def open_line(editor, text):
    editor.keys("G", "o")
    editor.type(text)


def wait_asked(editor, character):
    """Until the server has been asked for the place after so many characters of the line."""

    def asked():
        sent = editor.messages("textDocument/inlineCompletion")
        return sent and sent[-1]["params"]["position"]["character"] == character

    until(asked, "the request")


def test_a_proposal_appears_and_is_accepted_whole(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    assert ed.ghost()[:2] == [2, 9]
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)
    command = until(lambda: ed.messages("workspace/executeCommand"), "the accept command")[0]["params"]
    assert command["command"] == "lacuna.accept"
    ed.keys("<Esc>")
    until(lambda: ed.vim.eval("mode()") == "n")
    ed.vim.command("silent write")
    assert ed.file.read_bytes() == b"import os\n\n" + MULTI.encode() + b"\n"


def test_an_accepted_proposal_is_one_undo_step(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)
    ed.type(" + 1")
    ed.keys("<Esc>", "u")
    ed.see_text("import os\n\n" + MULTI)
    ed.keys("u")
    ed.see_text("import os\n\ndef multi")


def test_typing_along_asks_nothing_and_never_blinks(nvim):
    ed = nvim()
    open_line(ed, "def")
    ed.see(MULTI[3:])
    asked = ed.requests()
    for count, char in enumerate(" multi(a, b):", start=4):
        ed.type(char)
        assert ed.ghost_text() == MULTI[count:]
    # across a line break, with the indentation that the editor adds
    ed.type("\n")
    assert ed.ghost_text() == "x = a\n    return x + b"
    ed.type("x = a\n")
    assert ed.ghost_text() == "return x + b"
    ed.settle()
    assert ed.requests() == asked
    assert ed.text == "import os\n\ndef multi(a, b):\n    x = a\n    "


def test_accepting_in_the_same_breath_as_typing_duplicates_nothing(nvim):
    """The fault of the core's client: it applies the range of the answer to a line that has moved on."""
    ed = nvim()
    open_line(ed, "def")
    ed.see(MULTI[3:])
    ed.keys(" multi(a<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_what_is_typed_while_the_server_thinks_is_not_repeated(nvim):
    ed = nvim(env={"FAKE_SLOW_MS": "400"})
    # in one piece: no answer to a part of it comes first
    ed.keys("Goslow = ")
    wait_asked(ed, 7)
    # no key between here and the answer may cost a new request, or the answer would come later than the next one
    ed.lua("vim.api.nvim_buf_set_text(0, 2, 7, 2, 7, { 'comp' }) vim.api.nvim_win_set_cursor(0, { 3, 11 })")
    ed.see("ute(later)")
    ed.keys("<Tab>")
    ed.see_text("import os\n\nslow = compute(later)")


@pytest.mark.parametrize(
    ("key", "steps"),
    [
        # a word takes the white space before it
        ("<M-w>", ["(", "a", ",", " b", "):", "\n    x", " =", " a", "\n    return"]),
        # a line stops before its end, then takes the break with the next line
        ("<M-l>", ["(a, b):", "\n    x = a", "\n    return x + b"]),
        # no parser for Python here: balanced brackets, then lines
        ("<M-s>", ["(a, b)", ":", "\n    x = a", "\n    return x + b"]),
    ],
)
def test_pieces(nvim, key, steps):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    asked = ed.requests()
    have = "def multi"
    for step in steps:
        ed.keys(key)
        have += step
        ed.see_text("import os\n\n" + have)
        rest = MULTI[len(have) :]
        assert ed.ghost_text() == (rest or None)
        if rest:
            assert ed.requests() == asked
    ends = [9 + len("".join(steps[: n + 1])) for n in range(len(steps))]
    ends = [end for end in ends if end < len(MULTI)]
    until(lambda: len(ed.messages("lacuna/didPartiallyAccept")) == len(ends), "telling the server of each piece")
    told = [row["params"] for row in ed.messages("lacuna/didPartiallyAccept")]
    # the lengths count from where the item began, which its id tells
    start = MULTI.index(told[0]["id"].partition(":")[2])
    assert [row["acceptedLength"] for row in told] == [end - start for end in ends]


def test_nodes_of_a_real_parser(nvim):
    """Neovim brings a parser for C: parameters, then the body."""
    ed = nvim(file="a.c", text="\n", init="vim.opt.cindent = false\n")
    open_line(ed, "int multi")
    full = "int multi(int a, int b) {\n    return a + b;\n}"
    ed.see(full[9:])
    ed.keys("<M-s>")
    ed.see_text("\nint multi(int a, int b)")
    ed.keys("<M-s>")
    ed.see_text("\n" + full)


def test_astral_characters_keep_their_place(nvim):
    ed = nvim()
    open_line(ed, "emoji = '")
    ed.see("\U0001f600\U0001f680' + name")
    ed.keys("<M-w>")
    ed.see_text("import os\n\nemoji = '\U0001f600\U0001f680")
    sent = until(lambda: ed.messages("lacuna/didPartiallyAccept"))[-1]
    # two astral characters are four UTF-16 units, beside what was typed of the item after it was asked for
    typed_along = len(sent["params"]["id"].partition(":")[2].partition("\U0001f600")[0])
    assert sent["params"]["acceptedLength"] == typed_along + 4
    ed.keys("<Tab>")
    ed.see_text("import os\n\nemoji = '\U0001f600\U0001f680' + name")


def test_files_that_were_closed_leave_nothing_behind(nvim):
    ed = nvim()
    count = "return #vim.api.nvim_get_autocmds({ event = { 'User', 'ModeChanged' } })"
    before = ed.lua(count)
    for name in "bcd":
        ed.vim.command(f"edit {ed.file.with_name(name + '.py')}")
        ed.wait_ready()
    assert ed.lua(count) == before


def test_alternatives_are_cycled(nvim):
    ed = nvim()
    open_line(ed, "pick = ")
    ed.see("one (1/3)")
    ed.keys("<M-]>")
    ed.see("two(2) (2/3)")
    ed.keys("<M-]>", "<M-]>")
    ed.see("one (1/3)")
    ed.keys("<M-[>")
    ed.see("three (3/3)")
    # only those that go on from what is typed are offered
    ed.type("t")
    assert ed.ghost_text() == "hree (3/3)"
    ed.keys("<M-]>")
    ed.see("wo(2) (2/3)")
    ed.keys("<Tab>")
    ed.see_text("import os\n\npick = two(2)")


def test_typing_into_another_alternative_shows_it(nvim):
    ed = nvim()
    open_line(ed, "pick = ")
    ed.see("one (1/3)")
    asked = ed.requests()
    ed.type("tw")
    assert ed.ghost_text() == "o(2) (2/3)"
    assert ed.requests() == asked


def test_dismissed_stays_away_until_the_text_changes(nvim):
    ed = nvim()
    open_line(ed, "def mul")
    ed.see(MULTI[7:])
    ed.keys("<C-]>")
    ed.see_none()
    ed.settle()
    assert ed.ghost_text() is None
    assert [row["params"]["reason"] for row in ed.messages("lacuna/didDismiss")] == ["explicit"]
    ed.type("t")
    ed.see(MULTI[8:])
    assert ed.text == "import os\n\ndef mult"


def test_leaving_insert_mode_clears_it(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Esc>")
    ed.see_none()
    assert ed.text == "import os\n\ndef multi"


def test_ctrl_c_clears_it_too(nvim):
    """It ends insert mode without telling InsertLeave."""
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<C-c>")
    ed.see_none()
    assert ed.vim.eval("mode()") == "n"
    ed.keys("A")
    ed.see(MULTI[9:])


def test_nothing_is_proposed_where_no_key_could_take_it(nvim):
    """'paste' switches the mappings of insert mode off."""
    ed = nvim()
    ed.vim.command("set paste")
    open_line(ed, "def multi")
    ed.settle()
    assert ed.requests() == 0
    ed.vim.command("set nopaste")
    ed.type("(")
    ed.see(MULTI[10:])


def test_nothing_is_proposed_beyond_the_text(nvim):
    """'virtualedit' lets the cursor stand there; the text would be drawn left of it."""
    ed = nvim(init="vim.o.virtualedit = 'all'\n")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Right>")
    ed.see_none()
    ed.keys("<Left>")
    ed.see(MULTI[9:])


def test_a_dot_and_a_count_repeat_what_was_accepted(nvim):
    ed = nvim(text="\n")
    value = "value = compute(alpha, beta)"
    ed.keys("2o")
    ed.type("value = ")
    ed.see(value[8:])
    ed.keys("<M-w>")
    ed.see(value[15:])
    ed.keys("<Tab>")
    ed.see_text("\n" + value)
    ed.type("+1")
    ed.keys("<Esc>")
    ed.see_text(f"\n{value}+1\n{value}+1")
    ed.keys("<Esc>", "gg", "1.")
    ed.see_text(f"\n{value}+1\n{value}+1\n{value}+1")
    ed.keys("u")
    ed.see_text(f"\n{value}+1\n{value}+1")


def test_nothing_is_proposed_while_a_macro_is_recorded(nvim):
    """The key that accepts it would stand in the macro, and find no proposal when that is played."""
    ed = nvim(text="\n")
    ed.keys("q", "q")
    open_line(ed, "def multi")
    ed.settle()
    ed.keys("<M-\\>")
    ed.settle()
    assert ed.requests() == 0
    ed.keys("<Tab>")
    ed.type("x")
    ed.keys("<Esc>", "q")
    once = ed.text
    assert once == "\ndef multi   x"
    ed.keys("u", "@", "q")
    ed.see_text(once)
    # nor does a macro that waits for something accept what comes meanwhile
    ed.vim.command("let @q = \"odef multi\\<Cmd>sleep 1\\<CR>\\<Tab>x\\<Esc>\"")
    ed.keys("@", "q")
    ed.see_text(once + "\ndef multi   x")
    # played to an end in insert mode, it is over
    ed.vim.command("let @q = 'odef multi'")
    ed.keys("@", "q")
    ed.see(MULTI[9:])


def test_lines_that_do_not_fit_below_the_cursor_are_counted(nvim):
    ed = nvim(text="x\n" * 40)
    open_line(ed, "def multi")
    ed.see("(a, b): (+2 lines)\n    x = a\n    return x + b")
    ed.keys("<Esc>", "<C-e>", "A")
    ed.see("(a, b):\n    x = a (+1 line)\n    return x + b")
    ed.keys("<Esc>", "<C-e>", "A")
    ed.see(MULTI[9:])


# a menu that inserts nothing by itself, as most people set it
QUIET_MENU = "vim.o.completeopt = 'menuone,noselect,noinsert'\n"


def test_hidden_while_the_menu_is_up(nvim):
    ed = nvim(text="multitude = multiply = 1\n", init=QUIET_MENU)
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    asked = ed.requests()
    ed.keys("<C-n>")
    until(lambda: ed.vim.eval("pumvisible()"), "the menu")
    ed.see_none()
    ed.keys("<C-e>")
    until(lambda: not ed.vim.eval("pumvisible()"), "the menu's end")
    ed.see(MULTI[8:])
    assert ed.requests() == asked
    ed.keys("<Tab>")
    ed.see_text("multitude = multiply = 1\n" + MULTI)


@pytest.mark.parametrize("off", ["pause", "disable"])
def test_what_the_menu_hides_does_not_come_back_once_switched_off(nvim, off):
    ed = nvim(text="multitude = multiply = 1\n", init=QUIET_MENU)
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    ed.keys("<C-n>")
    until(lambda: ed.vim.eval("pumvisible()"), "the menu")
    ed.see_none()
    ed.keys(f"<Cmd>Lacuna {off}<CR>")
    ed.keys("<C-e>")
    until(lambda: not ed.vim.eval("pumvisible()"), "the menu's end")
    ed.settle()
    assert ed.ghost_text() is None


def test_shown_beside_the_menu_when_asked(nvim):
    ed = nvim(
        text="multitude = multiply = 1\n",
        config={"ghost": {"with_menu": True}},
        init=QUIET_MENU,
    )
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    ed.keys("<C-n>")
    until(lambda: ed.vim.eval("pumvisible()"), "the menu")
    ed.settle()
    assert ed.ghost_text() == MULTI[8:]


MENU = {
    # nvim-cmp's and blink.cmp's own interface, as documented: neither can be installed from a registry
    "cmp": """
        local handlers = {}
        package.loaded['cmp'] = {
          visible = function() return vim.g.menu == true end,
          event = { on = function(_, name, fn) handlers[name] = fn end },
        }
        _G.menu = function(open)
          vim.g.menu = open
          handlers[open and 'menu_opened' or 'menu_closed']({})
        end""",
    "blink": """
        package.loaded['blink.cmp'] = { is_menu_visible = function() return vim.g.menu == true end }
        _G.menu = function(open)
          vim.g.menu = open
          vim.api.nvim_exec_autocmds('User', { pattern = open and 'BlinkCmpMenuOpen' or 'BlinkCmpMenuClose' })
        end""",
}


def test_a_menu_plugin_that_is_loaded_later_is_respected(nvim):
    ed = nvim()
    ed.lua(MENU["cmp"])
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    ed.lua("_G.menu(true)")
    ed.see_none()
    ed.lua("_G.menu(false)")
    ed.see(MULTI[8:])
    assert ed.text == "import os\n\ndef mult"


@pytest.mark.parametrize("name", sorted(MENU))
def test_other_menus_are_respected(nvim, name):
    ed = nvim(init=MENU[name])
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    ed.lua("_G.menu(true)")
    ed.see_none()
    ed.lua("_G.menu(false)")
    ed.see(MULTI[8:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_asked_for_once_the_menu_is_gone(nvim):
    """Typed under a menu that is open all the time, as with a completion plugin."""
    ed = nvim(init=MENU["blink"])
    ed.lua("_G.menu(true)")
    open_line(ed, "def mult")
    ed.settle()
    assert ed.requests() == 0
    ed.lua("_G.menu(false)")
    ed.see(MULTI[8:])
    assert ed.text == "import os\n\ndef mult"


@pytest.mark.parametrize("config", [{}, {"ghost": {"with_menu": True}}])
@pytest.mark.parametrize("key", ["<BS>", "<C-n>"])
def test_the_editor_s_own_completion_takes_back_nothing_that_was_accepted(nvim, config, key):
    """It goes on after its only match was put in, with a menu or without, and would restore its text."""
    ed = nvim(text="multi\n", config=config, init=QUIET_MENU if config else "vim.o.completeopt = 'menu'\n")
    open_line(ed, "def mul")
    ed.see(MULTI[7:])
    ed.keys("<C-n>")
    until(lambda: ed.vim.eval("mode(1)") == "ic", "the completion")
    if not config:
        ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("multi\n" + MULTI)
    ed.keys(key)
    ed.type("y")
    ed.see_text("multi\n" + (MULTI[:-1] if key == "<BS>" else MULTI) + "y")


def test_the_entry_chosen_in_the_menu_is_told(nvim):
    ed = nvim(text="multitude = multiply = 1\n", config={"ghost": {"with_menu": True}})
    open_line(ed, "def mult")
    ed.see(MULTI[8:])
    ed.keys("<C-n>")
    wait_asked(ed, 13)
    told = ed.messages("textDocument/inlineCompletion")[-1]["params"]["context"]["selectedCompletionInfo"]
    assert told["text"] == "multitude"
    assert [told["range"][end]["character"] for end in ("start", "end")] == [4, 13]


def test_tab_is_a_tab_when_nothing_is_shown(nvim):
    ed = nvim(init="vim.opt.expandtab = false\n", file="a.go", text="\n")
    ed.keys("i", "<Tab>")
    ed.type("x")
    ed.see_text("\tx\n".rstrip("\n"))


SCRIPT = (
    "vim.api.nvim_create_autocmd('FileType', { callback = function() "
    "vim.api.nvim_exec2([[function! s:plain()\nreturn 'plain'\nendfunction\n"
)


@pytest.mark.parametrize(
    "mapping",
    [
        # a plain right-hand side, an expression, a callback, and one of the buffer: what people have on Tab
        "vim.keymap.set('i', '<Tab>', 'plain')",
        "vim.keymap.set('i', '<Tab>', function() return 'plain' end, { expr = true })",
        "vim.keymap.set('i', '<Tab>', function() vim.api.nvim_put({ 'plain' }, 'c', false, true) end)",
        "vim.api.nvim_create_autocmd('FileType', { callback = function() "
        "vim.keymap.set('i', '<Tab>', 'plain', { buffer = true }) end })",
        # what belongs to its script only, in an expression and in keys
        SCRIPT + "inoremap <buffer> <expr> <Tab> <SID>plain()]], {}) end })",
        SCRIPT + "inoremap <buffer> <Tab> <C-r>=<SID>plain()<CR>]], {}) end })",
    ],
)
def test_a_mapping_under_ours_still_works(nvim, mapping):
    ed = nvim(init=mapping + "\n")
    open_line(ed, "zz")
    ed.keys("<Tab>")
    ed.see_text("import os\n\nzzplain")
    ed.keys("<CR>")
    ed.type("def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\nzzplain\n" + MULTI)


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        # a function runs before the next key
        ("vim.keymap.set('i', '<Tab>', function() vim.api.nvim_put({ '-' }, 'c', false, true) end)", "a-b"),
        # a mapping that begins with its own key
        ("vim.keymap.set('i', '<Tab>', '<Tab>-', { remap = true })", "a   -b"),
    ],
)
def test_a_mapping_under_ours_does_the_same_as_without_us(nvim, mapping, text):
    ed = nvim(text="\n", init=mapping + "\n")
    # in one piece: as a macro does it
    ed.keys("ia<Tab>b")
    ed.see_text(text)


# as nvim-cmp and blink.cmp do it: what stands on the key when insert mode begins is called where they have nothing
WRAPPER = """
vim.api.nvim_create_autocmd('InsertEnter', {
  callback = function()
    local map = vim.fn.maparg('<Tab>', 'i', false, true)
    if map.desc == 'wrapper' then return end
    vim.keymap.set('i', '<Tab>', function()
      local keys = map.callback()
      if map.replace_keycodes == 1 then keys = vim.keycode(keys) end
      %s
    end, { buffer = map.buffer == 1, expr = %s, replace_keycodes = false, desc = 'wrapper' })
  end,
})
"""
WRAPPERS = [
    WRAPPER % ("return keys", "true"),
    WRAPPER % ("vim.api.nvim_feedkeys(keys, 'in', true)", "false"),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_plugin_that_calls_our_mapping_from_its_own(nvim, wrapper):
    """The server is restarted, and our mapping is set anew: two that call each other would never end."""
    ed = nvim(init=wrapper)
    open_line(ed, "a")
    ed.keys("<Tab>")
    ed.see_text("import os\n\na   ")
    ed.keys("<Esc>")
    ed.vim.command("Lacuna restart")
    until(lambda: len(ed.server_pids()) == 2, "the restart")
    until(lambda: ed.lua("return require('lacuna.server').client(0) ~= nil"), "the client")
    open_line(ed, "b")
    ed.keys("<Tab>")
    ed.see_text("import os\n\na   \nb   ")
    ed.keys("<CR>")
    ed.type("def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\na   \nb   \n" + MULTI)


def test_a_key_of_one_s_own_may_be_an_expression_mapping(nvim):
    """As people have it for the core's ghost text. No text may change while the expression is evaluated."""
    mapping = "return require('lacuna').accept{}() and '' or 'nothing'"
    ed = nvim(
        init="".join(
            f"vim.keymap.set('i', '{key}', function() {mapping.format(name)} end, {{ expr = true }})\n"
            for key, name in (("<C-l>", ""), ("<C-b>", "_word"))
        )
    )
    open_line(ed, "value = ")
    ed.see("compute(alpha, beta)")
    # in one piece: what is taken comes before the next key
    ed.keys("<C-b>(<C-l>!<C-l>")
    ed.see_text("import os\n\nvalue = compute(alpha, beta)!nothing")
    ed.keys("<Esc>", ".")
    ed.see_text("import os\n" + "\nvalue = compute(alpha, beta)!nothing" * 2)


@pytest.mark.parametrize(("key", "column"), [("<M-w>", 3), ("<A-l>", 3), ("<M-s>", 2)])
def test_an_alt_key_is_escape_and_the_key_when_nothing_is_shown(nvim, key, column):
    """What the editor makes of it without us."""
    ed = nvim(text="zz yy xx\n", init="vim.keymap.set('n', 's', '<Nop>')\n")
    ed.keys("3li")
    until(lambda: ed.vim.eval("mode()") == "i")
    ed.keys(key)
    until(lambda: ed.vim.eval("mode()") == "n", "normal mode")
    until(lambda: tuple(ed.vim.current.window.cursor) == (1, column), "the movement")
    assert ed.text == "zz yy xx"


def test_a_later_setup_gives_the_old_keys_back(nvim):
    ed = nvim(
        init="vim.api.nvim_create_autocmd('FileType', { callback = function() "
        "vim.keymap.set('i', '<Tab>', 'plain', { buffer = true }) end })\n"
    )
    ed.lua("require('lacuna').setup({ keys = { accept = '<C-y>', next_edit = false } })")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\ndef multiplain")
    assert ed.vim.call("maparg", "<M-e>", "n") == ""
    ed.keys("<C-u>")
    ed.type("def multi")
    ed.see(MULTI[9:])
    ed.keys("<C-y>")
    ed.see_text("import os\n\n" + MULTI)


def test_text_right_of_the_cursor_moves_behind_a_multi_line_proposal(nvim):
    ed = nvim(text="\n  # tail\n")
    ed.keys("j", "0", "i")
    ed.type("def multi")
    # the first line is as wide as what it covers
    ed.see("(a, b): \n    x = a\n    return x + b  # tail")
    ed.keys("<Tab>")
    ed.see_text("\n" + MULTI + "  # tail")


def test_a_tab_right_of_the_cursor_is_covered(nvim):
    ed = nvim(text="\t# tail\n")
    ed.keys("0", "i")
    ed.type("def multi")
    # the tab goes on to column 12 and the comment to 18, of which the cursor leaves 9 to cover
    ed.see("(a, b):  \n    x = a\n    return x + b\t# tail")


def test_lines_below_stand_beside_code_that_is_scrolled_sideways(nvim):
    ed = nvim(text=f"y = '{'x' * 100}'\n\n", init="vim.o.wrap = false\n")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.vim.call("winrestview", {"leftcol": 3})
    ed.vim.command("redraw")
    rows = ed.lua("return vim.tbl_map(function(row) return vim.fn.screenstring(row, 2) end, vim.fn.range(3, 5))")
    # the second column shows the fifth one of the text
    assert rows == ["m", "x", "r"]


@pytest.mark.parametrize("word", ["null", "boom"])
def test_no_answer_and_an_error_are_quiet(nvim, word):
    ed = nvim()
    open_line(ed, word)
    ed.keys("<CR>")
    ed.type("def multi")
    ed.see(MULTI[9:])
    assert ed.vim.eval("v:errmsg") == ""
    assert ed.text == f"import os\n\n{word}\ndef multi"


def test_a_new_keystroke_cancels_the_old_request(nvim):
    # long enough that the next key comes before the answer on any machine
    ed = nvim(env={"FAKE_SLOW_MS": "3000"})
    ed.keys("Goslow = c")
    wait_asked(ed, 8)
    ed.keys("o")
    until(lambda: any(row["event"] == "cancelled" for row in ed.messages()), "a cancellation")
    ed.see("mpute(later)")
    assert ed.text == "import os\n\nslow = co"


def test_the_request_carries_version_and_formatting(nvim):
    ed = nvim()
    open_line(ed, "def")
    ed.see(MULTI[3:])
    sent = ed.messages("textDocument/inlineCompletion")[-1]["params"]
    assert sent["formattingOptions"] == {"tabSize": 4, "insertSpaces": True}
    assert (
        sent["textDocument"]["version"]
        == ed.messages("textDocument/didChange")[-1]["params"]["textDocument"]["version"]
    )
    assert sent["context"]["triggerKind"] == 2
    told = until(lambda: ed.messages("lacuna/didShow"), "telling that it is shown")
    assert told[-1]["params"]["id"].startswith("p0:")


def test_only_when_asked(nvim):
    ed = nvim(config={"ghost": {"enabled": False}})
    open_line(ed, "def multi")
    ed.settle()
    assert ed.ghost_text() is None
    assert ed.requests() == 0
    ed.keys("<M-\\>")
    ed.see(MULTI[9:])
    assert ed.messages("textDocument/inlineCompletion")[-1]["params"]["context"]["triggerKind"] == 1


def test_a_debounce_of_ones_own(nvim):
    ed = nvim(config={"ghost": {"debounce_ms": 150}})
    # in one piece: a pause between two keys would end the wait
    ed.keys("Godef multi")
    ed.see(MULTI[9:])
    assert ed.requests() <= 2
    assert ed.text == "import os\n\ndef multi"


def test_tabs_are_drawn_as_wide_as_they_will_be(nvim):
    ed = nvim(file="a.go", text="\n")
    width = ed.lua("return require('lacuna.ghost') and vim.bo.tabstop")
    assert width == 8
    ed.lua(
        "local old = vim.lsp.get_clients({ name = 'lacuna' })[1] "
        "local request = old.request "
        "old.request = function(self, method, params, handler, buf) "
        "  if method ~= 'textDocument/inlineCompletion' then return request(self, method, params, handler, buf) end "
        "  vim.schedule(function() handler(nil, { items = { { insertText = '{\\n\\treturn\\n}' } } }, {}) end) "
        "  return true, 9999 end"
    )
    ed.keys("i")
    ed.type("f ")
    ed.see("{\n        return\n}")
    ed.keys("<Tab>")
    ed.see_text("f {\n\treturn\n}\n".rstrip("\n"))


CORE = """
vim.lsp.config('lacuna', { cmd = vim.json.decode(vim.env.FAKE_CMD), filetypes = { 'python' } })
vim.lsp.enable('lacuna')
vim.lsp.inline_completion.enable()
vim.keymap.set('i', '<Tab>', function()
  if not vim.lsp.inline_completion.get() then return '<Tab>' end
end, { expr = true })
"""


def test_the_core_client_works_without_the_plugin(nvim):
    import json

    from nvim_driver import FAKE

    ed = nvim(plugin=False, init=CORE, env={"FAKE_CMD": json.dumps(FAKE)}, wait=False)
    # `initialized` is too early: the core attaches its autocommands one vim.schedule() later
    until(lambda: ed.lua("return #vim.api.nvim_get_autocmds({ event = 'InsertEnter', buffer = 0 }) > 0"))
    ed.keys("Go")
    ed.keys("def multi")
    until(lambda: (ed.ghost("nvim.lsp.inline_completion") or [None] * 3)[2] == MULTI[9:], "the core's ghost text")
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


@pytest.mark.parametrize("scope", ["nil", "{ bufnr = 0 }", "{ client_id = vim.lsp.get_clients()[1].id }"])
@pytest.mark.parametrize("is_late", [False, True])
def test_the_core_s_own_ghost_text_does_not_double_ours(nvim, is_late, scope):
    call = f"vim.lsp.inline_completion.enable(true, {scope})"
    autocmd = f"vim.api.nvim_create_autocmd('LspAttach', {{ callback = function() {call} end }})\n"
    ed = nvim(init="" if is_late else autocmd)
    if is_late:
        ed.lua(call)
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    time.sleep(0.4)
    assert ed.ghost("nvim.lsp.inline_completion") is None
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_nor_does_it_where_the_user_s_own_config_replaces_ours(nvim):
    own = "vim.lsp.config('lacuna', { on_init = function() vim.g.was_told = true end })\n"
    ed = nvim(init=own + "vim.lsp.inline_completion.enable()\n")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    time.sleep(0.4)
    assert ed.vim.vars["was_told"]
    assert ed.ghost("nvim.lsp.inline_completion") is None
