--- Writes doc/lacuna.txt and doc/tags. Run from anywhere: nvim -l editors/neovim/scripts/help.lua [FILE]
--- Settings, commands and server settings come from the tables that the plugin itself reads.

local here = vim.fs.dirname(vim.fs.dirname(vim.fs.abspath(debug.getinfo(1, 'S').source:sub(2))))
vim.opt.runtimepath:prepend(here)

local WIDTH = 78
local out = {}

local function put(...)
  vim.list_extend(out, { ... })
end

local function wrap(text, indent)
  local line = indent
  for word in text:gmatch('%S+') do
    if #line + #word + 1 > WIDTH and line:match('%S') then
      put(line)
      line = indent
    end
    line = line == indent and line .. word or line .. ' ' .. word
  end
  put(line)
end

local function section(title, tag)
  put('', ('='):rep(WIDTH))
  put(title .. (' '):rep(math.max(1, WIDTH - #title - #tag - 2)) .. '*' .. tag .. '*', '')
end

local function entry(name, tag)
  put('', name .. (' '):rep(math.max(1, WIDTH - #name - #tag - 2)) .. '*' .. tag .. '*')
end

local function show(value)
  return vim.inspect(value, { newline = ' ', indent = '' }):gsub('{ %[', '{ ['):gsub('%s+', ' ')
end

put('*lacuna.txt*  Code infilling at the cursor, by a diffusion model on your own machine', '')
wrap(
  'Lacuna is a language server that fills gaps in code, and this is its Neovim client. Ghost text is shown while you '
    .. 'type, from the code on both sides of the cursor. Nothing leaves the machine.',
  ''
)

section('INSTALLATION', 'lacuna-install')
wrap(
  'Neovim 0.12 or newer, and the server: `:Lacuna install`, which takes it from the repository that the plugin lies '
    .. 'in, or `pip install` with the path of that repository. The plugin:',
  ''
)
put('', 'With |vim.pack|: >lua', "    vim.pack.add({ 'URL of the Lacuna repository' })", '<')
put('With lazy.nvim: >lua', "    { url = 'URL of the Lacuna repository', main = 'lacuna', opts = {} }", '<')
wrap(
  '`opts` is what `setup()` is given. `main` names the module, which lazy.nvim looks for in another folder of the '
    .. 'repository than where it is. The plugin may be loaded at any event: files that are open already are served too.',
  ''
)
put('', 'From a checkout: >lua', "    vim.opt.runtimepath:append('/path/to/lacuna/editors/neovim')", '<')
wrap(
  'The defaults work; no setup call is needed. To change something, set |g:lacuna| before the plugin loads, or call '
    .. '`require("lacuna").setup()` at any time: >lua',
  ''
)
put('    vim.g.lacuna = { keys = { accept = "<C-y>" }, settings = { proposal = { extent = "line" } } }', '<')
wrap(
  'Without the plugin, the editor\'s own client works too (its ghost text waits 200 ms, and there is no partial accept): '
    .. '>lua',
  ''
)
put(
  "    vim.lsp.config('lacuna', { cmd = { 'lacuna', 'serve' }, filetypes = { 'python' } })",
  "    vim.lsp.enable('lacuna')",
  '    vim.lsp.inline_completion.enable()',
  '<'
)

section('CONFIGURATION', 'lacuna-config')
put('                                                                    *g:lacuna*')
wrap('Every setting, with its default. A value of the wrong type costs one message, and the default is used.', '')
for _, option in ipairs(require('lacuna.config').options) do
  entry(option[1], 'lacuna-config-' .. option[1])
  wrap(('%s, default: %s'):format(option[2]:gsub('%?$', ' or nil'):gsub('^key$', 'key or false'), show(option[3])), '    ')
  wrap(option[4], '    ')
end

section('SETTINGS OF THE SERVER', 'lacuna-server-settings')
wrap('These go into `settings`, nested as the dots say. Those marked with * may also stand under `languages.<id>`.', '')
for _, row in ipairs(require('lacuna.server_options')) do
  entry(row.name .. (row.by_language and ' *' or ''), 'lacuna-settings-' .. row.name)
  local values = row.values ~= '' and (', values: %s'):format(row.values) or ''
  wrap(('%s, default: %s%s'):format(row.kind, show(row.default), values), '    ')
  wrap(row.meaning, '    ')
end

section('COMMANDS', 'lacuna-commands')
put('                                                                     *:Lacuna*')
wrap('`:Lacuna` alone is `:Lacuna status`. <Tab> completes the names.', '')
for _, subcommand in ipairs(require('lacuna.command').subcommands) do
  local name = ':Lacuna ' .. subcommand.name .. (subcommand.args and ' ' .. subcommand.args or '')
  entry(name, ':Lacuna-' .. subcommand.name)
  wrap(subcommand.help, '    ')
end

section('KEYS', 'lacuna-keys')
wrap(
  'All keys are settings (|lacuna-config|); `false` sets none. An insert-mode key does what it did before whenever no '
    .. 'proposal is shown: <Tab> stays <Tab>. To build your own: >lua',
  ''
)
put(
  "    vim.keymap.set('i', '<C-l>', function()",
  "      if not require('lacuna').accept() then",
  '        -- something else',
  '      end',
  '    end)',
  '<'
)
wrap(
  'Functions of `require("lacuna")`: accept, accept_word, accept_line, accept_node, next, previous, dismiss, trigger, '
    .. 'is_visible, fill, fill_all, rewrite, repair, next_edit, statusline, setup.',
  ''
)

section('EDIT PREVIEWS', 'lacuna-preview')
wrap(
  'Filling a hole, rewriting, repairing and the next edit show what would change before anything does: old lines are '
    .. 'struck, new lines stand below them. (What is chosen from the editor\'s own menu of code actions, |gra|, is done at '
    .. 'once; one undo takes it back.) While a preview is open these keys work in normal mode:',
  ''
)
put('')
for _, option in ipairs(require('lacuna.config').options) do
  if option[1]:match('^preview%.') then
    local text = option[4]:gsub('^In an edit preview: ', '')
    put(('    %-10s %s'):format(option[3], text))
  end
end

section('COMPLETION MENUS', 'lacuna-menus')
wrap(
  'Ghost text is hidden while a completion menu is up, and comes back with no new request when it closes: the built-in '
    .. 'menu, blink.cmp and nvim-cmp are recognised, any other through `ghost.is_menu_visible`. Their <Tab> mappings and '
    .. 'ours pass keys on to each other: the proposal is accepted when one is shown, the menu gets the key otherwise.',
  ''
)

section('STATUS LINE', 'lacuna-statusline')
wrap('Shows the state, and the milliseconds from request to text of the last proposal: >vim', '')
put("    set statusline+=%{%v:lua.require'lacuna'.statusline()%}", '<')
wrap('The autocommand event |User| LacunaStatus fires when the state changes.', '')

section('WHEN SOMETHING IS WRONG', 'lacuna-health')
wrap('`:checkhealth lacuna` says what was found and what to do; `:Lacuna log` opens the log.', '')
put('', 'vim:tw=78:ts=8:noet:ft=help:norl:')

local target = _G.arg[1] or vim.fs.joinpath(here, 'doc', 'lacuna.txt')
vim.fn.mkdir(vim.fs.dirname(target), 'p')
local file = assert(io.open(target, 'w'))
file:write(table.concat(out, '\n'), '\n')
file:close()
vim.cmd.helptags(vim.fn.fnameescape(vim.fs.dirname(target)))
