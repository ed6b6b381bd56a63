--- The public face. Everything a key, a command or a status line may call; nothing here is needed to get the defaults.

local M = {}

local is_started = false

--- Optional: `vim.g.lacuna` does the same.
---@param given? table see |lacuna-config|
function M.setup(given)
  require('lacuna.config').set(given)
  if is_started then
    local settings = require('lacuna.config').get().settings
    require('lacuna.server').configure(next(settings) and settings or vim.empty_dict())
    require('lacuna.ghost').reset()
    M.attach_all()
  end
end

local HIGHLIGHTS = {
  LacunaGhost = { link = 'ComplHint' },
  LacunaGhostInfo = { link = 'ComplHintMore' },
  -- text right of the cursor, drawn where accepting would move it
  LacunaMoved = { link = 'Normal' },
  LacunaDeleted = { link = 'DiffDelete' },
  LacunaAdded = { link = 'DiffAdd' },
}

local function set_highlights()
  for name, value in pairs(HIGHLIGHTS) do
    if name == 'LacunaDeleted' then
      local delete = vim.api.nvim_get_hl(0, { name = 'DiffDelete', link = false })
      -- a terminal without true colours has attributes of its own
      local cterm = vim.tbl_extend('force', delete.cterm or {}, { strikethrough = true })
      value = vim.tbl_extend('force', delete --[[@as table]], { strikethrough = true, cterm = cterm })
    end
    vim.api.nvim_set_hl(0, name, vim.tbl_extend('force', value, { default = true }))
  end
end

--- Be ready for the server: once, before it starts.
function M.hook()
  if is_started then
    return
  end
  is_started = true
  vim.api.nvim_create_autocmd('LspAttach', {
    group = vim.api.nvim_create_augroup('lacuna.attach', {}),
    callback = function(args)
      local client = vim.lsp.get_client_by_id(args.data.client_id)
      if client and client.name == 'lacuna' then
        -- where the user's own config has an on_init, ours did not run
        require('lacuna.server').take_over(client)
        M.attach(args.buf)
      end
    end,
  })
  -- a buffer that is given another name: the server knows nothing under that. Where a write gives the first one, the
  -- buffer loses its autocommands too
  vim.api.nvim_create_autocmd({ 'BufFilePre', 'BufNew' }, {
    group = vim.api.nvim_create_augroup('lacuna.named', {}),
    callback = function(args)
      local client = require('lacuna.server').client(args.buf)
      if client then
        local function close()
          if vim.lsp.buf_is_attached(args.buf, client.id) then
            vim.lsp.buf_detach_client(args.buf, client.id)
          end
        end
        if args.event == 'BufFilePre' then
          -- under the name that it still has
          close()
        end
        vim.schedule(function()
          close()
          if vim.api.nvim_buf_is_loaded(args.buf) and not client:is_stopped() then
            vim.lsp.buf_attach_client(args.buf, client.id)
          end
        end)
      end
    end,
  })
  set_highlights()
  vim.api.nvim_create_autocmd('ColorScheme', {
    group = vim.api.nvim_create_augroup('lacuna.highlights', {}),
    callback = set_highlights,
  })
end

--- Called by plugin/lacuna.lua for every file type event.
function M.on_filetype(bufnr)
  local config = require('lacuna.config').get()
  if is_started or not config.enabled or not vim.list_contains(config.filetypes, vim.bo[bufnr].filetype) then
    return
  end
  M.hook()
  require('lacuna.server').start()
end

---@param bufnr integer
function M.attach(bufnr)
  require('lacuna.ghost').attach(bufnr)
  require('lacuna.keys').attach(bufnr)
  require('lacuna.next_edit').attach(bufnr)
end

function M.attach_all()
  local client = require('lacuna.server').client()
  for bufnr in pairs(client and client.attached_buffers or {}) do
    M.attach(bufnr)
  end
end

for _, name in ipairs({ 'accept', 'accept_word', 'accept_line', 'accept_node', 'dismiss', 'is_visible', 'trigger' }) do
  M[name] = function(...)
    return require('lacuna.ghost')[name](...)
  end
end

function M.next()
  return require('lacuna.ghost').cycle(1)
end

function M.previous()
  return require('lacuna.ghost').cycle(-1)
end

---@param instruction? string
function M.rewrite(instruction)
  require('lacuna.edit').rewrite(instruction)
end

function M.fill()
  require('lacuna.edit').fill_hole()
end

function M.fill_all()
  require('lacuna.edit').fill_all()
end

function M.repair()
  require('lacuna.edit').repair()
end

function M.next_edit()
  return require('lacuna.next_edit').jump()
end

local WORDS = { normal = '', busy = '…', warning = '!', error = '✗', inactive = '⏸' }

--- For a status line: `%{%v:lua.require'lacuna'.statusline()%}`. Empty where Lacuna does not work.
function M.statusline()
  if not is_started then
    return ''
  end
  local server, ghost = require('lacuna.server'), require('lacuna.ghost')
  if ghost.is_snoozed() then
    return 'lacuna zz'
  end
  local status = server.status
  local word = status and WORDS[status.kind] or (server.client() and '' or '✗')
  local ms = ghost.last_ms and ('%.0f ms'):format(ghost.last_ms) or nil
  return (vim.trim(('lacuna %s %s'):format(word, ms or '')):gsub('%s+', ' '))
end

return M
