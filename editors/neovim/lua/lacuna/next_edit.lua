--- The next edit: after a change, what else in this file has to change with it. A hint first, then a jump with a preview.
--- Off unless the server's setting features.nextEdit is on; `:Lacuna next` asks in any case.

local config = require('lacuna.config')
local preview = require('lacuna.preview')
local server = require('lacuna.server')

local api = vim.api
local M = {}

local NS = api.nvim_create_namespace('lacuna.next_edit')
local WAIT_MS = 300

---@type { bufnr: integer, tick: integer, edits: table[] }?
local found
local timer = assert(vim.uv.new_timer())

local function clear()
  if found and api.nvim_buf_is_valid(found.bufnr) then
    api.nvim_buf_clear_namespace(found.bufnr, NS, 0, -1)
  end
  found = nil
end

local function is_current()
  return found ~= nil
    and found.bufnr == api.nvim_get_current_buf()
    and found.tick == api.nvim_buf_get_changedtick(found.bufnr)
end

local function hint()
  local row = api.nvim_win_get_cursor(0)[1] - 1
  local lines = vim.tbl_map(function(edit)
    return tostring(edit.range.start.line + 1)
  end, found.edits)
  local key = config.get().keys.next_edit or ':Lacuna next'
  api.nvim_buf_set_extmark(found.bufnr, NS, row, 0, {
    virt_text = { { ('  → next edit: line %s (%s)'):format(table.concat(lines, ', '), key), 'LacunaGhostInfo' } },
    virt_text_pos = 'eol',
  })
end

---@param after? fun(num_edits: integer, message?: string)
local function ask(after)
  local bufnr = api.nvim_get_current_buf()
  local client = server.client(bufnr)
  if not client then
    if after then
      after(0, 'the server is not running in this buffer')
    end
    return
  end
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.textDocument.version = vim.lsp.util.buf_versions[bufnr]
  local tick = api.nvim_buf_get_changedtick(bufnr)
  server.request('lacuna/nextEdit', params, function(result, message)
    clear()
    local edits = result and result.edits or {}
    if #edits > 0 and api.nvim_buf_is_valid(bufnr) and api.nvim_buf_get_changedtick(bufnr) == tick then
      found = { bufnr = bufnr, tick = tick, edits = edits }
    end
    if after then
      after(found and #edits or 0, message)
    elseif is_current() then
      hint()
    end
  end, bufnr)
end

local function show()
  local client = server.client(found.bufnr)
  if not client then
    return
  end
  local changes, commands = {}, {}
  for _, edit in ipairs(found.edits) do
    local uri = edit.textDocument.uri
    changes[uri] = changes[uri] or {}
    table.insert(changes[uri], { range = edit.range, newText = edit.text })
    commands[#commands + 1] = edit.command
  end
  local first = found.edits[1]
  local bufnr = vim.uri_to_bufnr(first.textDocument.uri)
  clear()
  local ok, reason = preview.show({ changes = changes }, client.offset_encoding, function(num_accepted)
    for _, command in ipairs(num_accepted > 0 and commands or {}) do
      client:exec_cmd(command, { bufnr = bufnr }, function() end)
    end
  end)
  if ok then
    preview.go_to_buffer(bufnr)
    api.nvim_win_set_cursor(0, { first.range.start.line + 1, 0 })
    vim.cmd('normal! ^')
  else
    vim.notify('lacuna: ' .. reason, vim.log.levels.INFO)
  end
end

--- Jump to the next proposed edit and preview it; asks first when none is known for the text as it is.
function M.jump()
  if is_current() then
    show()
    return
  end
  ask(function(num_edits, message)
    if num_edits > 0 then
      show()
    else
      vim.notify('lacuna: ' .. (message or 'no further edit to propose'), vim.log.levels.INFO)
    end
  end)
end

function M.is_pending()
  return is_current()
end

---@param bufnr integer
function M.attach(bufnr)
  local group = api.nvim_create_augroup('lacuna.next_edit.' .. bufnr, {})
  api.nvim_create_autocmd({ 'TextChanged', 'InsertLeave' }, {
    group = group,
    buffer = bufnr,
    callback = function()
      clear()
      if not vim.tbl_get(config.get().settings, 'features', 'nextEdit') or preview.is_open() then
        return
      end
      timer:start(
        WAIT_MS,
        0,
        vim.schedule_wrap(function()
          if api.nvim_get_current_buf() == bufnr and api.nvim_get_mode().mode == 'n' and not preview.is_open() then
            ask()
          end
        end)
      )
    end,
  })
  api.nvim_create_autocmd({ 'InsertEnter', 'BufLeave' }, { group = group, buffer = bufnr, callback = clear })
end

return M
