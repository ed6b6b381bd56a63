--- Edits that the server offers as code actions: fill a hole, fill all holes, rewrite a selection, repair. Each is
--- previewed before anything changes.

local preview = require('lacuna.preview')
local server = require('lacuna.server')

local M = {}

local FILL_HOLE = 'refactor.rewrite.lacuna.fillHole'
local FILL_ALL = 'refactor.rewrite.lacuna.fillAllHoles'
local REWRITE = 'refactor.rewrite.lacuna.rewrite'
local REPAIR = 'quickfix.lacuna.repair'

local function tell(message)
  vim.notify('lacuna: ' .. message, vim.log.levels.INFO)
end

--- From the beginning of one line to the end of another, counted from 1.
local function lines_params(client, bufnr, first, last)
  local text = vim.api.nvim_buf_get_lines(bufnr, last - 1, last, false)[1] or ''
  -- not by the core's make_given_range_params: it takes the end for a cursor, which 'selection' moves
  local stop = { line = last - 1, character = vim.str_utfindex(text, client.offset_encoding) }
  return {
    textDocument = vim.lsp.util.make_text_document_params(bufnr),
    range = { start = { line = first - 1, character = 0 }, ['end'] = stop },
  }
end

local function range_params(client, bufnr)
  local mode = vim.api.nvim_get_mode().mode
  if mode:match('^[vV\22]') then
    local first, last = vim.fn.getpos('v'), vim.fn.getpos('.')
    if first[2] > last[2] or (first[2] == last[2] and first[3] > last[3]) then
      first, last = last, first
    end
    local from, to = { first[2], first[3] - 1 }, { last[2], last[3] - 1 }
    local params = mode == 'V' and lines_params(client, bufnr, first[2], last[2])
      or vim.lsp.util.make_given_range_params(from, to, bufnr, client.offset_encoding)
    -- the selection has done its work, and the keys of a preview are keys of normal mode
    vim.cmd.normal({ '\27', bang = true })
    return params
  end
  return vim.lsp.util.make_range_params(0, client.offset_encoding)
end

--- Ask for the actions of one kind, preview the first.
---@param kind string
---@param opts { lines?: integer[], range?: table, instruction?: string, nothing: string, bufnr?: integer }
local function run(kind, opts)
  local bufnr = opts.bufnr or vim.api.nvim_get_current_buf()
  local client = server.client(bufnr)
  if not client then
    tell('the server is not running in this buffer')
    return
  end
  local lines = opts.lines
  local params = opts.range or lines and lines_params(client, bufnr, lines[1], lines[2]) or range_params(client, bufnr)
  params.context = { diagnostics = {}, only = { kind }, triggerKind = 1 }
  server.request('textDocument/codeAction', params, function(actions, failure)
    local action = (actions or {})[1]
    if not action then
      tell(failure or opts.nothing)
      return
    end
    server.request('lacuna/previewEdit', { action = action, instruction = opts.instruction }, function(result, message)
      if not result then
        -- why there is nothing to show is said by the server itself
        if message then
          tell(message)
        end
        return
      end
      local ok, reason = preview.show(result.edit, client.offset_encoding)
      if not ok then
        tell(reason --[[@as string]])
      end
    end, bufnr)
  end, bufnr)
end

--- Fill the hole at the cursor, or at the end of the lines given.
---@param lines? { [1]: integer, [2]: integer }
function M.fill_hole(lines)
  run(FILL_HOLE, { nothing = 'no hole here', lines = lines })
end

function M.fill_all()
  run(FILL_ALL, { nothing = 'no holes in this file' })
end

--- Repair at the cursor, or at the end of the lines given.
---@param lines? { [1]: integer, [2]: integer }
function M.repair(lines)
  run(REPAIR, { nothing = 'no syntax error here', lines = lines })
end

--- Rewrite the selection, or the lines given. instruction: what to do; "" asks for it.
---@param instruction? string
---@param lines? { [1]: integer, [2]: integer }
function M.rewrite(instruction, lines)
  local bufnr = vim.api.nvim_get_current_buf()
  local client = server.client(bufnr)
  if not client then
    tell('the server is not running in this buffer')
    return
  end
  local range = lines and lines_params(client, bufnr, lines[1], lines[2]) or range_params(client, bufnr)
  local function go(text)
    run(REWRITE, { range = range, instruction = text, nothing = 'nothing here to rewrite', bufnr = bufnr })
  end
  if instruction ~= '' then
    go(instruction)
    return
  end
  vim.ui.input({ prompt = 'Rewrite how? ' }, function(text)
    if text and text ~= '' then
      go(text)
    end
  end)
end

return M
