"""Edits in a real Neovim: shown as struck and added lines, accepted or refused one by one, undone in one step."""

import pytest
from nvim_driver import until

pytestmark = [pytest.mark.editor]

HOLES = "def a():\n    ...\n\n\ndef b():\n    pass\n"

PREVIEW = """
local ns = vim.api.nvim_get_namespaces()['lacuna.preview']
local struck, added = {}, {}
for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, ns or -1, 0, -1, { details = true })) do
  if mark[4].hl_group == 'LacunaDeleted' then
    struck[#struck + 1] = vim.api.nvim_buf_get_lines(0, mark[2], mark[2] + 1, false)[1]
  end
  for _, line in ipairs(mark[4].virt_lines or {}) do
    added[#added + 1] = line[1][1]
  end
end
return { struck, added }"""


def preview(editor, struck, added):
    until(lambda: editor.lua(PREVIEW) == [struck, added], f"a preview (seen: {editor.lua(PREVIEW)})")


def no_preview(editor):
    until(lambda: editor.lua("return not require('lacuna.preview').is_open()"), "the end of the preview")
    assert editor.lua(PREVIEW) == [[], []]


def said(editor, text):
    until(lambda: text in editor.lua("return vim.fn.execute('messages')"), f"the message {text!r}")


def test_fill_a_hole(nvim):
    ed = nvim(text=HOLES)
    ed.keys("2G")
    ed.vim.command("Lacuna fill")
    preview(ed, ["    ..."], ["    return 42"])
    # nothing has changed yet
    assert ed.text + "\n" == HOLES
    ed.keys("<Tab>")
    ed.see_text("def a():\n    return 42\n\n\ndef b():\n    pass")
    no_preview(ed)
    ed.keys("u")
    ed.see_text(HOLES[:-1])


def test_the_keys_are_given_back(nvim):
    ed = nvim(text=HOLES, init="vim.keymap.set('n', '<CR>', '<Cmd>let g:enter = 1<CR>')\n")
    ed.keys("2G")
    ed.vim.command("Lacuna fill")
    preview(ed, ["    ..."], ["    return 42"])
    ed.keys("<Esc>")
    no_preview(ed)
    ed.keys("<CR>")
    until(lambda: ed.vim.eval("get(g:, 'enter')") == 1, "the former mapping")
    assert ed.text + "\n" == HOLES


def test_fill_all_holes_and_undo_in_one_step(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.keys("<CR>")
    ed.see_text("def a():\n    return 42\n\n\ndef b():\n    return 42")
    no_preview(ed)
    ed.keys("u")
    ed.see_text(HOLES[:-1])


def test_each_change_is_settled_by_itself(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    # refuse the first, which moves to the second; accept that
    ed.keys("<S-Tab>")
    preview(ed, ["    pass"], ["    return 42"])
    assert ed.vim.current.window.cursor[0] == 6
    ed.keys("<Tab>")
    ed.see_text("def a():\n    ...\n\n\ndef b():\n    return 42")
    no_preview(ed)


def test_going_from_change_to_change(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.keys("]c")
    assert ed.vim.current.window.cursor[0] == 2
    ed.keys("]c")
    assert ed.vim.current.window.cursor[0] == 6
    ed.keys("[c")
    assert ed.vim.current.window.cursor[0] == 2
    ed.vim.command("Lacuna accept")
    ed.see_text("def a():\n    return 42\n\n\ndef b():\n    pass")
    ed.vim.command("Lacuna refuse all")
    no_preview(ed)
    assert ed.text == "def a():\n    return 42\n\n\ndef b():\n    pass"


def test_a_change_that_the_user_wrote_over_is_dropped(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.keys("2G", "$", "x")
    until(lambda: ed.lua(PREVIEW)[0] == ["    pass"], "only the other one")
    ed.keys("<CR>")
    ed.see_text("def a():\n    ..\n\n\ndef b():\n    return 42")


def test_a_line_written_right_above_a_change_moves_it(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.keys("gg", "o", "x = 1", "<Esc>")
    ed.settle()
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.keys("<CR>")
    ed.see_text("def a():\n    x = 1\n    return 42\n\n\ndef b():\n    return 42")


def test_nothing_to_fill(nvim):
    ed = nvim(text="x = 1\n")
    ed.vim.command("Lacuna fill")
    said(ed, "no hole here")
    assert ed.text == "x = 1"


def test_rewrite_the_selection(nvim):
    ed = nvim(text="first = 1\nsecond = 2\nthird = 3\n")
    ed.keys("2G", "V", ":Lacuna rewrite<CR>")
    preview(ed, ["second = 2"], ["SECOND = 2"])
    ed.keys("<Tab>")
    ed.see_text("first = 1\nSECOND = 2\nthird = 3")
    ed.keys("u")
    ed.see_text("first = 1\nsecond = 2\nthird = 3")


def test_rewrite_the_selection_by_a_key_of_one_s_own(nvim):
    ed = nvim(text="first = 1\nsecond = 2\n", init="vim.keymap.set('x', 'Q', require('lacuna').rewrite)\n")
    ed.keys("2G", "V", "Q")
    preview(ed, ["second = 2"], ["SECOND = 2"])
    # the keys of a preview are keys of normal mode
    ed.keys("<Tab>")
    ed.see_text("first = 1\nSECOND = 2")


def test_fill_the_hole_of_a_line_that_is_named(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("6Lacuna fill")
    preview(ed, ["    pass"], ["    return 42"])


def test_rewrite_whole_lines_whatever_a_selection_takes_in(nvim):
    ed = nvim(text="first = 1\nlast = 'é'\n", init="vim.o.selection = 'exclusive'\n")
    ed.vim.command("2Lacuna rewrite")
    preview(ed, ["last = 'é'"], ["LAST = 'É'"])
    ed.keys("<Esc>")
    no_preview(ed)
    ed.keys("2G", "V")
    ed.lua("require('lacuna').rewrite('brief')")
    preview(ed, ["last = 'é'"], ["last = 'é'  # brief"])
    end = ed.messages("textDocument/codeAction")[-1]["params"]["range"]["end"]
    assert end == {"line": 1, "character": 10}


def test_rewrite_several_lines_with_an_instruction(nvim):
    ed = nvim(text="first = 1\nsecond = 2\nthird = 3\n")
    ed.keys("V", "j", ":Lacuna rewrite be brief<CR>")
    preview(ed, ["second = 2"], ["second = 2  # be brief"])
    assert ed.messages("lacuna/previewEdit")[-1]["params"]["instruction"] == "be brief"
    ed.keys("<CR>")
    ed.see_text("first = 1\nsecond = 2  # be brief\nthird = 3")


def test_rewrite_asks_for_the_instruction(nvim):
    ed = nvim(
        text="first = 1\n",
        init="vim.ui.input = function(opts, done) vim.g.asked = opts.prompt done('be brief') end\n",
    )
    ed.keys("V", ":Lacuna! rewrite<CR>")
    preview(ed, ["first = 1"], ["first = 1  # be brief"])
    assert "Rewrite how?" in ed.vim.eval("g:asked")
    ed.keys("<Esc>")
    no_preview(ed)
    assert ed.text == "first = 1"


def test_rewrite_of_characters_with_astral_ones_before(nvim):
    ed = nvim(text="e = '\U0001f600', name\n")
    ed.keys("0", "f,", "w", "v", "e")
    ed.lua("require('lacuna').rewrite()")
    preview(ed, ["e = '\U0001f600', name"], ["e = '\U0001f600', NAME"])
    ed.keys("<CR>")
    ed.see_text("e = '\U0001f600', NAME")


def test_repair(nvim):
    ed = nvim(text="def (x):\n    return x\n")
    ed.vim.command("Lacuna repair")
    preview(ed, ["def (x):"], ["def repaired(x):"])
    ed.keys("<Tab>")
    ed.see_text("def repaired(x):\n    return x")


def test_next_edit_asked_for(nvim):
    ed = nvim(text="new_name = 1\nprint(old_name)\nx = old_name\n")
    ed.keys("<M-e>")
    preview(ed, ["print(old_name)", "x = old_name"], ["print(new_name)", "x = new_name"])
    assert ed.vim.current.window.cursor[0] == 2
    ed.keys("<CR>")
    ed.see_text("new_name = 1\nprint(new_name)\nx = new_name")
    ed.keys("u")
    ed.see_text("new_name = 1\nprint(old_name)\nx = old_name")


def test_next_edit_offers_itself_when_switched_on(nvim):
    ed = nvim(text="old_name = 1\nprint(old_name)\n", config={"settings": {"features": {"nextEdit": True}}})
    ed.keys("c", "w")
    ed.type("new_name")
    ed.keys("<Esc>")
    until(
        lambda: (ed.ghost("lacuna.next_edit") or [0, 0, ""])[2] == "  → next edit: line 2 (<M-e>)",
        "the hint",
    )
    ed.keys("<M-e>")
    preview(ed, ["print(old_name)"], ["print(new_name)"])
    ed.keys("<Tab>")
    ed.see_text("new_name = 1\nprint(new_name)")


def test_next_edit_keeps_quiet_when_off(nvim):
    ed = nvim(text="old_name = 1\nprint(old_name)\n")
    ed.keys("c", "w")
    ed.type("new_name")
    ed.keys("<Esc>")
    import time

    # longer than the wait before it would ask
    time.sleep(0.6)
    ed.settle()
    assert ed.messages("lacuna/nextEdit") == []
    assert ed.text == "new_name = 1\nprint(old_name)"


def test_an_edit_for_a_text_that_has_moved_on_is_refused(nvim):
    ed = nvim(text=HOLES)
    ed.keys("2G")
    ed.lua("""
        local client = vim.lsp.get_clients({ name = 'lacuna' })[1]
        local request = client.request
        client.request = function(self, method, params, handler, buf)
          if method ~= 'lacuna/previewEdit' then return request(self, method, params, handler, buf) end
          return request(self, method, params, function(err, result, ctx)
            vim.api.nvim_buf_set_lines(0, 0, 0, false, { '# new' })
            vim.schedule(function() handler(err, result, ctx) end)
          end, buf)
        end""")
    ed.vim.command("Lacuna fill")
    said(ed, "the text has changed since")
    assert ed.text + "\n" == "# new\n" + HOLES


SHOW = """
local file, line, text = ...
local at = { line = line, character = 0 }
local edit = { changes = { [vim.uri_from_fname(file)] = { { range = { start = at, ['end'] = at }, newText = text } } } }
return require('lacuna.preview').show(edit, 'utf-16')
"""


def test_lines_above_the_first_are_in_sight(nvim):
    ed = nvim(text="first = 1\nsecond = 2\n")
    ed.lua(SHOW, str(ed.file), 0, "import os\nimport re\n")
    preview(ed, [], ["import os", "import re"])
    ed.vim.command("redraw")
    assert screen(ed, 3) == ["import os", "import re", "first = 1"]
    ed.keys("<CR>")
    ed.see_text("import os\nimport re\nfirst = 1\nsecond = 2")


@pytest.mark.parametrize("text", ["third = 3\n", "third = 3\nfourth = 4\n"])
def test_lines_below_the_last_are_in_sight(nvim, text):
    ed = nvim(text="first = 1\nsecond = 2\n")
    ed.lua(SHOW, str(ed.file), 2, text)
    ed.vim.command("redraw")
    want = ["first = 1", "second = 2", *text.splitlines()]
    assert screen(ed, len(want)) == want
    ed.keys("<CR>")
    ed.see_text("\n".join(want))
    assert ed.lua(PREVIEW) == [[], []]


def test_closed_folds_are_opened_where_something_would_change(nvim):
    text = "def a():\n    x = 1\n    ...\n\n\ndef b():\n    y = 2\n    z = 3\n"
    ed = nvim(text=text, init="vim.o.foldmethod = 'indent'\n")
    assert ed.lua("return { vim.fn.foldclosed(3), vim.fn.foldclosed(7) }") == [2, 7]
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ..."], ["    return 42"])
    assert ed.lua("return { vim.fn.foldclosed(3), vim.fn.foldclosed(7) }") == [-1, 7]


def test_a_buffer_that_is_wiped_out_ends_its_preview(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("nnoremap <buffer> <Tab> <Nop>")
    ed.vim.command("Lacuna fillall")
    preview(ed, ["    ...", "    pass"], ["    return 42", "    return 42"])
    ed.vim.command("bwipeout!")
    no_preview(ed)
    assert ed.lua("return vim.fn.execute('messages')").strip() == ""


def test_a_buffer_that_may_not_change_is_left_alone(nvim):
    ed = nvim(text=HOLES)
    ed.vim.command("setlocal nomodifiable")
    ed.vim.command("Lacuna fillall")
    said(ed, "'modifiable' is off in ")
    no_preview(ed)
    assert ed.text + "\n" == HOLES


def screen(editor, height):
    return editor.lua(
        """
        return vim.tbl_map(function(row)
          local cells = vim.tbl_map(function(column) return vim.fn.screenstring(row, column) end, vim.fn.range(1, 40))
          return vim.trim(table.concat(cells))
        end, vim.fn.range(1, ...))""",
        height,
    )


def test_a_file_that_was_not_open_is_listed_once_it_is_edited(nvim):
    ed = nvim()
    other = ed.folder / "b.py"
    other.write_text("x = 1\n")
    ed.lua(SHOW, str(other), 0, "import os\n")
    buffer = next(buffer for buffer in ed.vim.buffers if buffer.name.endswith("b.py"))
    assert not buffer.options["buflisted"]
    ed.lua("require('lacuna.preview').accept_all()")
    assert buffer[:] == ["import os", "x = 1"]
    assert buffer.options["buflisted"]


ANNOTATED = """
local uri = vim.uri_from_bufnr(0)
local at = { line = 0, character = 0 }
local edits = { { range = { start = at, ['end'] = at }, newText = 'import os\\n', annotationId = 'one' } }
local edit = { documentChanges = { { textDocument = { uri = uri }, edits = edits } } }
edit.changeAnnotations = { one = { label = 'Fill this hole', needsConfirmation = true } }
return require('lacuna.preview').show(edit, 'utf-16')"""


def test_a_preview_says_of_nothing_that_it_was_applied(nvim):
    """The editor announces annotated edits, with a prompt to press Enter, or asks before them."""
    ed = nvim(text="x = 1\n")
    ed.lua("vim.fn.confirm = function() error('asked') end")
    assert ed.lua(ANNOTATED) is True
    preview(ed, [], ["import os"])
    assert ed.lua("return vim.fn.execute('messages')").strip() == ""


def test_old_lines_are_struck_in_a_terminal_without_true_colours(nvim):
    ed = nvim()
    look = ed.lua("return vim.api.nvim_get_hl(0, { name = 'LacunaDeleted' })")
    assert look["strikethrough"] is True
    assert look["cterm"]["strikethrough"] is True


def test_a_next_edit_that_cannot_be_shown_says_why(nvim):
    ed = nvim(text="x = 1\n")
    ed.lua("""
        local at = { line = 0, character = 0 }
        local edit = { textDocument = { uri = vim.uri_from_bufnr(0) }, range = { start = at, ['end'] = at }, text = '' }
        require('lacuna.server').request = function(_, _, handler) handler({ edits = { edit } }) end""")
    ed.vim.command("Lacuna next")
    said(ed, "nothing would change")
    assert ed.text == "x = 1"


def several(nvim):
    """Two open files, and an edit of both in preview; the second is hidden."""
    ed = nvim(text="new_name = 1\nprint(old_name)\n", init="vim.o.hidden = true\n")
    other = ed.folder / "b.py"
    other.write_text("import a\nx = old_name\ny = 2\n")
    ed.vim.command(f"edit {other}")
    until(lambda: len(ed.messages("textDocument/didOpen")) == 2, "the second file")
    ed.vim.command("buffer a.py")
    ed.keys("<M-e>")
    preview(ed, ["print(old_name)"], ["print(new_name)"])
    return ed, next(buffer for buffer in ed.vim.buffers if buffer.name.endswith("b.py"))


def test_an_edit_over_several_files_is_settled_file_by_file(nvim):
    ed, other = several(nvim)
    ed.keys("<Tab>")
    # the rest of it comes into sight
    until(lambda: ed.vim.current.buffer.number == other.number, "the other file")
    preview(ed, ["x = old_name"], ["x = new_name"])
    ed.keys("<Esc>")
    no_preview(ed)
    assert ed.text == "import a\nx = old_name\ny = 2"
    ed.vim.command("buffer a.py")
    assert ed.text == "new_name = 1\nprint(new_name)"


@pytest.mark.parametrize("option", ["nohidden", "winfixbuf"])
def test_the_rest_of_an_edit_comes_into_sight_where_this_window_stays(nvim, option):
    ed, other = several(nvim)
    ed.vim.command(f"set {option}")
    ed.keys("<Tab>")
    until(lambda: ed.vim.current.buffer.number == other.number, "the other file")
    assert len(ed.vim.windows) == 2
    ed.keys("<Tab>")
    no_preview(ed)
    assert ed.text == "import a\nx = new_name\ny = 2"


def test_an_edit_over_several_files_is_taken_at_once_and_undone_in_each(nvim):
    ed, other = several(nvim)
    ed.keys("<CR>")
    ed.see_text("new_name = 1\nprint(new_name)")
    no_preview(ed)
    assert other[:] == ["import a", "x = new_name", "y = 2"]
    ed.keys("u")
    ed.see_text("new_name = 1\nprint(old_name)")
    ed.vim.command("buffer b.py")
    ed.keys("u")
    ed.see_text("import a\nx = old_name\ny = 2")
