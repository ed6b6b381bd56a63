--- The plugin's own settings: one table that declares name, type, default and meaning of each.
--- `:help lacuna-config` is generated from it (scripts/help.lua). The server's settings stand in server_options.lua.

local M = {}

---@class lacuna.Option
---@field [1] string dotted name
---@field [2] string type: boolean, integer, string, list (of strings), table, function or key (a string that is not
--- empty, or false); "?" appended: may be nil
---@field [3] any default
---@field [4] string meaning

---@type lacuna.Option[]
M.options = {
  { 'enabled', 'boolean', true, 'Start the server when a file of one of the `filetypes` is opened.' },
  {
    'cmd',
    'list?',
    nil,
    'Command that starts the server, for example `{ "/path/to/lacuna", "serve" }`. Nil: `lacuna` of the active virtual '
      .. 'environment ($VIRTUAL_ENV), else the one on $PATH, else the private one of `:Lacuna install`.',
  },
  {
    'filetypes',
    'list',
    {
      'python',
      'pyrex',
      'javascript',
      'javascriptreact',
      'typescript',
      'typescriptreact',
      'go',
      'rust',
      'java',
      'c',
      'cpp',
      'cuda',
      'objcpp',
      'cs',
      'php',
      'ruby',
      'lua',
      'luau',
      'sh',
      'bash',
      'zsh',
      'css',
      'html',
      'htmldjango',
      'json',
      'jsonc',
      'toml',
      'yaml',
    },
    'File types in which Lacuna works. Any other can be added; those without a grammar are treated as plain text.',
  },
  { 'notify', 'boolean', true, 'Say in one message when the server is missing, failed, or refused a setting.' },
  { 'ghost.enabled', 'boolean', true, 'Show ghost text while typing. Off: only when asked with `keys.trigger`.' },
  { 'ghost.debounce_ms', 'integer', 0, 'Wait this long after a keystroke before asking the server.' },
  {
    'ghost.with_menu',
    'boolean',
    false,
    'Keep ghost text visible while a completion menu (built in, blink.cmp or nvim-cmp) is open.',
  },
  {
    'ghost.is_menu_visible',
    'function?',
    nil,
    'Tells whether a completion menu that Lacuna does not know is open: a function that returns a boolean.',
  },
  { 'keys.accept', 'key', '<Tab>', 'Insert mode: accept the proposal. Does what it did before when none is shown.' },
  { 'keys.accept_word', 'key', '<M-w>', 'Insert mode: accept the next word of it.' },
  { 'keys.accept_line', 'key', '<M-l>', 'Insert mode: accept the next line of it.' },
  { 'keys.accept_node', 'key', '<M-s>', 'Insert mode: accept the next syntax node (tree-sitter; else a balanced piece).' },
  { 'keys.next', 'key', '<M-]>', 'Insert mode: show the next alternative; asks for more when there is only one.' },
  { 'keys.previous', 'key', '<M-[>', 'Insert mode: show the previous alternative.' },
  { 'keys.dismiss', 'key', '<C-]>', 'Insert mode: dismiss the proposal. Does what it did before when none is shown.' },
  { 'keys.trigger', 'key', '<M-\\>', 'Insert mode: ask for a proposal here and now.' },
  { 'keys.next_edit', 'key', '<M-e>', 'Normal mode: jump to the next proposed edit and preview it.' },
  { 'preview.accept', 'key', '<Tab>', 'In an edit preview: accept the change under the cursor, or the nearest one.' },
  { 'preview.refuse', 'key', '<S-Tab>', 'In an edit preview: refuse the change under the cursor, or the nearest one.' },
  { 'preview.accept_all', 'key', '<CR>', 'In an edit preview: accept all changes, as one undo step.' },
  { 'preview.refuse_all', 'key', '<Esc>', 'In an edit preview: refuse all changes.' },
  { 'preview.next', 'key', ']c', 'In an edit preview: go to the next change.' },
  { 'preview.previous', 'key', '[c', 'In an edit preview: go to the previous change.' },
  { 'snooze_minutes', 'integer', 5, 'How long `:Lacuna snooze` keeps quiet.' },
  {
    'settings',
    'table',
    {},
    'Settings of the server, as in |lacuna-server-settings|, for example `{ proposal = { extent = "line" } }`.',
  },
}

local function get(tree, name)
  for part in vim.gsplit(name, '.', { plain = true }) do
    if type(tree) ~= 'table' then
      return nil
    end
    tree = tree[part]
  end
  return tree
end

local function set(tree, name, value)
  local parts = vim.split(name, '.', { plain = true })
  for i = 1, #parts - 1 do
    tree[parts[i]] = tree[parts[i]] or {}
    tree = tree[parts[i]]
  end
  tree[parts[#parts]] = value
end

local function fits(kind, value)
  local may_be_nil = kind:sub(-1) == '?'
  kind = kind:gsub('%?$', '')
  if value == nil then
    return may_be_nil
  elseif kind == 'integer' then
    return type(value) == 'number' and value % 1 == 0 and value >= 0
  elseif kind == 'key' then
    return value == false or type(value) == 'string' and value ~= ''
  elseif kind == 'list' then
    return vim.islist(value) and vim.iter(value):all(function(item)
      return type(item) == 'string'
    end)
  end
  return type(value) == kind
end

---@param given any what the user set
---@return table config complete
---@return string[] messages one per value that could not be used
function M.resolve(given)
  local config, messages, known = {}, {}, {}
  if given ~= nil and type(given) ~= 'table' then
    messages[1] = ('the configuration must be a table, not a %s; it was left out'):format(type(given))
    given = nil
  end
  for _, option in ipairs(M.options) do
    local name, kind, default = option[1], option[2], option[3]
    local value = get(given or {}, name)
    known[name] = true
    local group = name:match('^(.*)%.')
    if group then
      known[group] = 'table'
    end
    if value ~= nil and not fits(kind, value) then
      messages[#messages + 1] = ('%s must be a %s, not %s; using %s'):format(
        name,
        kind:gsub('%?$', ''):gsub('^key$', 'key or false'):gsub('^list$', 'list of strings'),
        vim.inspect(value, { newline = ' ', indent = '' }),
        vim.inspect(default, { newline = ' ', indent = '' })
      )
      value = nil
    end
    if value == nil then
      value = vim.deepcopy(default)
    end
    set(config, name, value)
  end
  local function unknown(tree, prefix)
    for key, value in pairs(tree) do
      local name = prefix .. tostring(key)
      if not known[name] then
        messages[#messages + 1] = ('%s is not a setting; see :help lacuna-config'):format(name)
      elseif known[name] == 'table' and type(value) ~= 'table' then
        messages[#messages + 1] = ('%s must be a table, not %s; it was left out'):format(name, vim.inspect(value))
      elseif name ~= 'settings' and type(value) == 'table' and not vim.islist(value) then
        unknown(value, name .. '.')
      end
    end
  end
  unknown(given or {}, '')
  table.sort(messages)
  return config, messages
end

local resolved, from_setup

--- What `require('lacuna').setup` was given, over `vim.g.lacuna`.
function M.set(given)
  from_setup, resolved = given, nil
end

---@return table
function M.get()
  if not resolved then
    local given = vim.g.lacuna
    if type(given) == 'table' and type(from_setup) == 'table' then
      given = vim.tbl_deep_extend('force', given, from_setup)
    elseif from_setup ~= nil then
      given = from_setup
    end
    local messages
    resolved, messages = M.resolve(given)
    M.messages = messages
    if #messages > 0 and resolved.notify then
      vim.schedule(function()
        vim.notify('lacuna: ' .. table.concat(messages, '\nlacuna: '), vim.log.levels.WARN)
      end)
    end
  end
  return resolved
end

return M
