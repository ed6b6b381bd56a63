--- An edit shown before it is made: old lines struck, new lines below them, accepted or refused change by change.
---
--- Works on line hunks of one workspace edit over any number of buffers. Knows no server.

local config = require('lacuna.config')

local api = vim.api
local M = {}

local NS = api.nvim_create_namespace('lacuna.preview')

---@class lacuna.Hunk
---@field bufnr integer
---@field mark integer extmark whose row is where the old lines begin (or where new ones are inserted)
---@field old string[]
---@field new string[]

---@class lacuna.Preview
---@field hunks lacuna.Hunk[]
---@field on_done? fun(num_accepted: integer)
---@field num_accepted integer

---@type lacuna.Preview?
local current
-- buffer -> what to put back when the preview ends
local restore = {}

local function row_of(hunk)
  return api.nvim_buf_get_extmark_by_id(hunk.bufnr, NS, hunk.mark, {})[1]
end

local function old_lines(hunk, row)
  return api.nvim_buf_get_lines(hunk.bufnr, row, row + #hunk.old, false)
end

--- Do the lines that the hunk replaces still read as they did?
local function is_intact(hunk)
  if not api.nvim_buf_is_valid(hunk.bufnr) then
    return false
  end
  local row = row_of(hunk)
  return row ~= nil and vim.deep_equal(old_lines(hunk, row), hunk.old)
end

local function draw(hunk, row)
  local below = {}
  for _, line in ipairs(hunk.new) do
    below[#below + 1] = { { line == '' and ' ' or line:gsub('\t', (' '):rep(vim.bo[hunk.bufnr].tabstop)), 'LacunaAdded' } }
  end
  local count = api.nvim_buf_line_count(hunk.bufnr)
  local is_above = #hunk.old == 0 and row < count
  hunk.mark = api.nvim_buf_set_extmark(hunk.bufnr, NS, math.min(row, count), 0, {
    virt_lines = is_above and #below > 0 and below or nil,
    virt_lines_above = is_above,
    virt_lines_overflow = 'scroll',
    -- old lines go down with a line that is written above them; a place for new ones stays
    right_gravity = #hunk.old > 0,
  })
  hunk.lines = {}
  if #hunk.old == 0 and not is_above then
    -- after the last line, where the place itself is no line that could show anything
    hunk.lines[1] = api.nvim_buf_set_extmark(hunk.bufnr, NS, count - 1, 0, {
      virt_lines = below,
      virt_lines_overflow = 'scroll',
    })
  end
  for i, line in ipairs(hunk.old) do
    hunk.lines[i] = api.nvim_buf_set_extmark(hunk.bufnr, NS, row + i - 1, 0, {
      end_row = row + i - 1,
      end_col = #line,
      hl_group = 'LacunaDeleted',
      hl_eol = false,
      virt_lines = i == #hunk.old and #below > 0 and below or nil,
      virt_lines_overflow = 'scroll',
    })
  end
end

--- A closed fold hides what is drawn in it; and what is drawn above the first line is out of sight until a window is
--- told to leave room there.
local function reveal(hunk)
  local row = row_of(hunk)
  local is_above_all = #hunk.old == 0 and row == 0
  for _, win in ipairs(vim.fn.win_findbuf(hunk.bufnr)) do
    api.nvim_win_call(win, function()
      local end_line = vim.fn.line('$')
      for line = math.min(row + 1, end_line), math.min(row + math.max(1, #hunk.old), end_line) do
        if vim.fn.foldclosed(line) ~= -1 then
          vim.cmd(line .. 'foldopen!')
        end
      end
      if is_above_all and vim.fn.line('w0') == 1 then
        vim.fn.winrestview({ topfill = #hunk.new })
      end
    end)
  end
end

local function erase(hunk)
  if api.nvim_buf_is_valid(hunk.bufnr) then
    for _, mark in ipairs({ hunk.mark, unpack(hunk.lines) }) do
      api.nvim_buf_del_extmark(hunk.bufnr, NS, mark)
    end
  end
end

local function unset_keys(bufnr)
  for _, map in ipairs(restore[bufnr] or {}) do
    pcall(vim.keymap.del, 'n', map.lhs, { buf = bufnr })
    -- the buffer may be gone, and its mappings with it
    if map.before.buffer == 1 and api.nvim_buf_is_loaded(bufnr) then
      api.nvim_buf_call(bufnr, function()
        vim.fn.mapset('n', false, map.before)
      end)
    end
  end
  restore[bufnr] = nil
  pcall(api.nvim_del_augroup_by_name, 'lacuna.preview.' .. bufnr)
end

local function finish_if_empty()
  if not current then
    return
  end
  local left = {}
  for _, hunk in ipairs(current.hunks) do
    left[hunk.bufnr] = true
  end
  for bufnr in pairs(restore) do
    if not left[bufnr] then
      unset_keys(bufnr)
    end
  end
  if #current.hunks == 0 then
    local done = current
    current = nil
    if done.on_done then
      done.on_done(done.num_accepted)
    end
  end
end

--- The hunk under the cursor, or the nearest one in this buffer.
---@return integer? index
local function nearest()
  local bufnr, row = api.nvim_get_current_buf(), api.nvim_win_get_cursor(0)[1] - 1
  local best, distance
  for index, hunk in ipairs(current and current.hunks or {}) do
    if hunk.bufnr == bufnr then
      local from = row_of(hunk) or 0
      local to = from + math.max(0, #hunk.old - 1)
      local d = row < from and from - row or math.max(0, row - to)
      if not distance or d < distance then
        best, distance = index, d
      end
    end
  end
  return best
end

local function apply(hunk)
  local row = row_of(hunk)
  erase(hunk)
  -- a changed buffer that no list shows would be forgotten unsaved
  vim.bo[hunk.bufnr].buflisted = true
  api.nvim_buf_set_lines(hunk.bufnr, row, row + #hunk.old, false, hunk.new)
  return row
end

--- Accept or refuse one change, and go on to the next.
---@return boolean
local function settle(is_accepted)
  local index = nearest()
  if not index then
    return false
  end
  local hunk = table.remove(current.hunks, index)
  if not is_accepted then
    erase(hunk)
  elseif is_intact(hunk) then
    apply(hunk)
    current.num_accepted = current.num_accepted + 1
  else
    erase(hunk)
    vim.notify('lacuna: the text there has changed; that change was left out', vim.log.levels.WARN)
  end
  local next_index = nearest()
  local next_hunk = current.hunks[next_index or 1]
  if next_hunk then
    if not next_index then
      -- the rest is in other files: left in sight, or the user would not know of it
      M.go_to_buffer(next_hunk.bufnr)
    end
    M.go_to(next_hunk)
  end
  finish_if_empty()
  return true
end

--- Bring a buffer into sight, in this window where that may show another one.
function M.go_to_buffer(bufnr)
  vim.cmd("normal! m'")
  -- the window is tied to its buffer ('winfixbuf'), or would abandon changes ('nohidden')
  if not pcall(api.nvim_set_current_buf, bufnr) then
    vim.cmd.sbuffer(bufnr)
  end
end

function M.go_to(hunk)
  vim.cmd("normal! m'")
  local count = api.nvim_buf_line_count(hunk.bufnr)
  api.nvim_win_set_cursor(0, { math.min(row_of(hunk) + 1, count), 0 })
  vim.cmd('normal! ^')
  reveal(hunk)
end

local function step(direction)
  local bufnr, row = api.nvim_get_current_buf(), api.nvim_win_get_cursor(0)[1] - 1
  local target
  for _, hunk in ipairs(current and current.hunks or {}) do
    if hunk.bufnr == bufnr then
      local ahead = (row_of(hunk) - row) * direction
      if ahead > 0 and (not target or ahead < (row_of(target) - row) * direction) then
        target = hunk
      end
    end
  end
  if target then
    M.go_to(target)
  end
end

function M.accept()
  return current ~= nil and settle(true)
end

function M.refuse()
  return current ~= nil and settle(false)
end

function M.accept_all()
  if not current then
    return false
  end
  local hunks = current.hunks
  current.hunks = {}
  -- all in one call: one undo step in each buffer
  for i = #hunks, 1, -1 do
    if is_intact(hunks[i]) then
      apply(hunks[i])
      current.num_accepted = current.num_accepted + 1
    else
      erase(hunks[i])
      vim.notify('lacuna: some of the text has changed; that change was left out', vim.log.levels.WARN)
    end
  end
  finish_if_empty()
  return true
end

function M.refuse_all()
  if not current then
    return false
  end
  local hunks = current.hunks
  current.hunks = {}
  vim.iter(hunks):each(erase)
  finish_if_empty()
  return true
end

function M.is_open()
  return current ~= nil
end

local ACTIONS = {
  accept = M.accept,
  refuse = M.refuse,
  accept_all = M.accept_all,
  refuse_all = M.refuse_all,
  next = function()
    step(1)
  end,
  previous = function()
    step(-1)
  end,
}

local function set_keys(bufnr)
  if restore[bufnr] then
    return
  end
  restore[bufnr] = {}
  for name, lhs in pairs(config.get().preview) do
    if lhs then
      local before = api.nvim_buf_call(bufnr, function()
        return vim.fn.maparg(lhs, 'n', false, true)
      end)
      table.insert(restore[bufnr], { lhs = lhs, before = before })
      vim.keymap.set('n', lhs, ACTIONS[name], { buf = bufnr, nowait = true, desc = 'Lacuna: ' .. name:gsub('_', ' ') })
    end
  end
  local group = api.nvim_create_augroup('lacuna.preview.' .. bufnr, {})
  api.nvim_create_autocmd({ 'TextChanged', 'TextChangedI', 'BufUnload' }, {
    group = group,
    buffer = bufnr,
    callback = vim.schedule_wrap(function()
      -- a change that the user wrote over is no longer ours to make
      if current then
        current.hunks = vim.tbl_filter(function(hunk)
          if hunk.bufnr ~= bufnr or is_intact(hunk) then
            return true
          end
          erase(hunk)
          return false
        end, current.hunks)
        finish_if_empty()
      end
    end),
  })
end

--- The lines of a buffer as the text edits would leave them.
local function edited(bufnr, edits, encoding)
  local scratch = api.nvim_create_buf(false, true)
  vim.bo[scratch].modifiable = true
  api.nvim_buf_set_lines(scratch, 0, -1, false, api.nvim_buf_get_lines(bufnr, 0, -1, false))
  -- without their annotations, which the editor would announce as applied, with a prompt to press Enter
  local plain = vim.tbl_map(function(edit)
    return { range = edit.range, newText = edit.newText }
  end, edits)
  vim.lsp.util.apply_text_edits(plain, scratch, encoding)
  local lines = api.nvim_buf_get_lines(scratch, 0, -1, false)
  api.nvim_buf_delete(scratch, { force = true })
  return lines
end

local function slice(lines, from, count)
  return vim.list_slice(lines, from, from + count - 1)
end

---@return table<string, { edits: lsp.TextEdit[], version?: integer }>
local function by_uri(edit)
  local found = {}
  for uri, edits in pairs(edit.changes or {}) do
    found[uri] = { edits = edits }
  end
  for _, change in ipairs(edit.documentChanges or {}) do
    if change.textDocument then
      local version = change.textDocument.version
      found[change.textDocument.uri] = { edits = change.edits, version = version ~= vim.NIL and version or nil }
    end
  end
  return found
end

--- Show what the edit would change. False, with the reason, when there is nothing to show or the text has moved on.
---@param edit lsp.WorkspaceEdit
---@param encoding string
---@param on_done? fun(num_accepted: integer)
---@return boolean, string?
function M.show(edit, encoding, on_done)
  M.refuse_all()
  local hunks = {}
  for uri, change in pairs(by_uri(edit)) do
    local bufnr = vim.uri_to_bufnr(uri)
    vim.fn.bufload(bufnr)
    if not vim.bo[bufnr].modifiable then
      return false, ("'modifiable' is off in %s"):format(vim.fn.bufname(bufnr))
    end
    local version = vim.lsp.util.buf_versions[bufnr]
    if change.version and version and change.version ~= version then
      return false, 'the text has changed since; ask again'
    end
    local old = api.nvim_buf_get_lines(bufnr, 0, -1, false)
    local new = edited(bufnr, change.edits, encoding)
    local indices = vim.text.diff(table.concat(old, '\n') .. '\n', table.concat(new, '\n') .. '\n', {
      result_type = 'indices',
      algorithm = 'histogram',
    })
    for _, at in ipairs(indices --[[@as integer[][] ]]) do
      local from, num_old, to, num_new = unpack(at)
      -- a pure insertion is given as the line that it follows
      local row = num_old == 0 and from or from - 1
      hunks[#hunks + 1] = {
        bufnr = bufnr,
        row = row,
        old = slice(old, row + 1, num_old),
        new = slice(new, to, num_new),
      }
    end
  end
  if #hunks == 0 then
    return false, 'nothing would change'
  end
  table.sort(hunks, function(a, b)
    return a.bufnr < b.bufnr or (a.bufnr == b.bufnr and a.row < b.row)
  end)
  for _, hunk in ipairs(hunks) do
    draw(hunk, hunk.row)
    set_keys(hunk.bufnr)
    reveal(hunk)
  end
  current = { hunks = hunks, on_done = on_done, num_accepted = 0 }
  return true
end

return M
