--- Ghost text: asks the server, shows the answer, follows the typing, puts it into the buffer.
---
--- Its own request path, because the core's client waits a fixed 200 ms. Three rules hold everything together:
--- a proposal is anchored by an extmark where it was asked for; whether it still holds is always decided from the live
--- buffer (`live`), also at the moment of accepting; and text that is typed along never causes a request.

local config = require('lacuna.config')
local piece = require('lacuna.piece')
local server = require('lacuna.server')

local api = vim.api
local M = {}

local NS = api.nvim_create_namespace('lacuna.ghost')
local ANCHORS = api.nvim_create_namespace('lacuna.anchor')
local METHOD = 'textDocument/inlineCompletion'
local AUTOMATIC, INVOKED = 2, 1

---@class lacuna.Proposal
---@field text string everything to insert at the anchor
---@field tail string text right of the anchor that it replaces
---@field head string text left of the anchor that the server's item repeats
---@field id? string
---@field command? lsp.Command

---@class lacuna.Shown
---@field bufnr integer
---@field anchor integer extmark id
---@field before string line left of the anchor
---@field after string line right of the anchor
---@field proposals lacuna.Proposal[]
---@field index integer
---@field told? string id of the last proposal reported as shown
---@field drawn? integer extmark id of what is on the screen

---@type lacuna.Shown?
local shown
-- what is on its way: the answer of any other request is dropped
local request = nil ---@type { id?: integer, client: vim.lsp.Client, anchor: integer, bufnr: integer }?
local last_place = ''
local dismissed_at = nil ---@type string?
local snooze_until = 0
local is_cmp_hooked = false
local debounce = nil ---@type uv.uv_timer_t?

--- Milliseconds from the request to the drawn text, of the last proposal that needed the server.
---@type number?
M.last_ms = nil

local function is_inserting()
  return api.nvim_get_mode().mode:sub(1, 1) == 'i'
end

--- Does the cursor stand right of the text, as 'virtualedit' lets it? A proposal would be drawn left of it.
local function is_beyond_text()
  return vim.fn.getcurpos()[4] > 0
end

--- Is some completion menu in the way?
local function is_menu_visible()
  if vim.fn.pumvisible() == 1 then
    return true
  end
  local blink = package.loaded['blink.cmp']
  if blink and blink.is_menu_visible and blink.is_menu_visible() then
    return true
  end
  local cmp = package.loaded['cmp']
  if cmp and cmp.visible and cmp.visible() then
    return true
  end
  local ask = config.get().ghost.is_menu_visible
  return ask ~= nil and ask() == true
end

--- Take what is shown off the screen; it may come back.
local function hide()
  if shown and shown.drawn then
    if api.nvim_buf_is_valid(shown.bufnr) then
      api.nvim_buf_del_extmark(shown.bufnr, NS, shown.drawn)
    end
    shown.drawn = nil
  end
end

---@param at { bufnr: integer, anchor: integer } a request, its answer, or what is shown
local function free_anchor(at)
  if api.nvim_buf_is_valid(at.bufnr) then
    api.nvim_buf_del_extmark(at.bufnr, ANCHORS, at.anchor)
  end
end

local function forget_request()
  if debounce then
    debounce:stop()
  end
  if request then
    if request.id then
      request.client:cancel_request(request.id)
    end
    free_anchor(request)
    request = nil
  end
end

--- Drop what is shown. reason: why, for the server; nil when it was accepted.
local function drop(reason)
  if not shown then
    return
  end
  hide()
  free_anchor(shown)
  local proposal = shown.proposals[shown.index]
  if reason and shown.told and proposal.id then
    server.notify('lacuna/didDismiss', { id = proposal.id, reason = reason })
  end
  shown = nil
end

--- The whole line that a position is in, split there.
local function split_line(bufnr, row, col)
  local line = api.nvim_buf_get_lines(bufnr, row, row + 1, false)[1] or ''
  return line:sub(1, col), line:sub(col + 1)
end

--- What of the shown proposal is still to come, judged from the live buffer; nil when the buffer tells another story.
---@return string? rest, lacuna.Proposal? proposal, integer? typed bytes of it that stand in the buffer
local function live()
  if not shown or api.nvim_get_current_buf() ~= shown.bufnr or not is_inserting() or is_beyond_text() then
    return
  end
  -- a macro that is played means the keys that it holds
  if vim.fn.reg_executing() ~= '' then
    return
  end
  local mark = api.nvim_buf_get_extmark_by_id(shown.bufnr, ANCHORS, shown.anchor, {})
  local cursor = api.nvim_win_get_cursor(0)
  local row, col = cursor[1] - 1, cursor[2]
  if #mark == 0 or mark[1] > row or (mark[1] == row and mark[2] > col) then
    return
  end
  if split_line(shown.bufnr, mark[1], mark[2]) ~= shown.before then
    return
  end
  local _, after = split_line(shown.bufnr, row, col)
  if after ~= shown.after then
    return
  end
  local typed = table.concat(api.nvim_buf_get_text(shown.bufnr, mark[1], mark[2], row, col, {}), '\n')
  local function rest_of(index)
    local text = shown.proposals[index].text
    if #typed < #text and vim.startswith(text, typed) then
      return text:sub(#typed + 1)
    end
  end
  local rest = rest_of(shown.index)
  -- another alternative may be the one that is being typed
  for index = 1, rest and 0 or #shown.proposals do
    rest = rest_of(index)
    if rest then
      shown.index = index
      break
    end
  end
  if rest then
    return rest, shown.proposals[shown.index], #typed
  end
end

--- Virtual text does not expand tabs.
local function expand_tabs(text, from)
  if not text:find('\t', 1, true) then
    return text
  end
  local size, out, width = vim.bo.tabstop, {}, from
  for before, tab in text:gmatch('([^\t]*)(\t?)') do
    out[#out + 1] = before
    width = width + vim.fn.strdisplaywidth(before)
    if tab ~= '' then
      local spaces = size - width % size
      out[#out + 1] = (' '):rep(spaces)
      width = width + spaces
    end
  end
  return table.concat(out)
end

local function draw(rest, proposal)
  local bufnr = shown.bufnr
  local cursor = api.nvim_win_get_cursor(0)
  local row, col = cursor[1] - 1, cursor[2]
  local lines = vim.split(rest, '\n', { plain = true })
  -- a tab begins where the cursor stands, and virtcol('.') tells where it ends
  local at = vim.fn.virtcol('.', true)[1] - 1
  local first = { { expand_tabs(lines[1], at), 'LacunaGhost' } }
  local below = {}
  for i = 2, #lines do
    below[#below + 1] = { { expand_tabs(lines[i], 0), 'LacunaGhost' } }
  end
  local right = shown.after
  local is_overlay = right ~= '' and (#below > 0 or proposal.tail ~= '')
  if is_overlay then
    -- the text right of the cursor will stand behind the last line, so it is drawn there and covered here
    local kept = right:sub(#proposal.tail + 1)
    local last = #below > 0 and below[#below] or first
    last[#last + 1] = { kept, 'LacunaMoved' }
    local covered = vim.fn.strdisplaywidth(right, at)
    local drawn = 0
    for _, chunk in ipairs(first) do
      drawn = drawn + vim.fn.strdisplaywidth(chunk[1])
    end
    if drawn < covered then
      first[#first + 1] = { (' '):rep(covered - drawn), 'LacunaMoved' }
    end
  end
  -- what does not fit below the cursor is not drawn by the editor: the last line in sight tells how much that is
  local num_seen = math.min(#below, vim.fn.winheight(0) - vim.fn.winline())
  local last_seen = below[num_seen] or first
  local num_hidden = #below - num_seen
  if num_hidden > 0 then
    last_seen[#last_seen + 1] = { (' (+%d line%s)'):format(num_hidden, num_hidden == 1 and '' or 's'), 'LacunaGhostInfo' }
  end
  if #shown.proposals > 1 then
    last_seen[#last_seen + 1] = { (' (%d/%d)'):format(shown.index, #shown.proposals), 'LacunaGhostInfo' }
  end
  -- one call moves the mark and its text together: nothing flickers in between
  shown.drawn = api.nvim_buf_set_extmark(bufnr, NS, row, col, {
    id = shown.drawn,
    virt_text = first,
    virt_text_pos = is_overlay and 'overlay' or 'inline',
    virt_lines = #below > 0 and below or nil,
    -- beside the code, where that is scrolled sideways
    virt_lines_overflow = 'scroll',
    hl_mode = 'combine',
    right_gravity = true,
  })
  if proposal.id and shown.told ~= proposal.id then
    shown.told = proposal.id
    server.notify('lacuna/didShow', { id = proposal.id })
  end
end

--- Draw or hide what is shown, as the buffer and the menu want it. False when it no longer fits the buffer.
local function refresh()
  local rest, proposal = live()
  if not rest then
    return false
  end
  if is_menu_visible() and not config.get().ghost.with_menu then
    hide()
  else
    draw(rest, proposal)
  end
  return true
end

--- One item of an answer as text to insert at the place of asking; nil when it is not an extension of what stands there.
---@return lacuna.Proposal?
local function read_item(item, place, encoding)
  local text = type(item.insertText) == 'table' and item.insertText.value or item.insertText
  text = text:gsub('\r\n?', '\n')
  local head, tail = '', ''
  local range = item.range
  if range then
    if range.start.line ~= place.row or range['end'].line ~= place.row then
      return
    end
    local line = place.before .. place.after
    local from = vim.str_byteindex(line, encoding, range.start.character, false)
    local to = vim.str_byteindex(line, encoding, range['end'].character, false)
    if from > #place.before or to < #place.before then
      return
    end
    head, tail = line:sub(from + 1, #place.before), line:sub(#place.before + 1, to)
    if not vim.startswith(text, head) then
      return
    end
    text = text:sub(#head + 1)
  end
  if text == '' or text == tail then
    return
  end
  local id = item.command and item.command.arguments and item.command.arguments[1]
  return {
    text = text,
    tail = tail,
    head = head,
    id = type(id) == 'string' and id or nil,
    command = item.command,
  }
end

--- The menu's selected entry, which a proposal has to begin with.
local function selected_completion(bufnr, encoding)
  -- not from its list of all entries, which takes tens of milliseconds where a language server offers thousands
  local entry = vim.fn.complete_info({ 'completed' }).completed
  if not entry or not entry.word then
    return
  end
  local cursor = api.nvim_win_get_cursor(0)
  local before, after = split_line(bufnr, cursor[1] - 1, cursor[2])
  local start = #before - #before:match('[%w_\128-\255]*$')
  local function at(bytes)
    return { line = cursor[1] - 1, character = vim.str_utfindex(before .. after, encoding, bytes, false) }
  end
  return { range = { start = at(start), ['end'] = at(#before) }, text = entry.word }
end

local function ask(kind, on_answer)
  local bufnr = api.nvim_get_current_buf()
  local client = server.client(bufnr)
  if not client or not server.can_complete(client) or is_beyond_text() then
    return
  end
  -- a macro would hold the key that accepts, and find no proposal when it is played
  if vim.fn.reg_recording() ~= '' then
    return
  end
  forget_request()
  local cursor = api.nvim_win_get_cursor(0)
  local row, col = cursor[1] - 1, cursor[2]
  local before, after = split_line(bufnr, row, col)
  local place = { row = row, before = before, after = after }
  local context = { triggerKind = kind }
  if vim.fn.pumvisible() == 1 then
    context.selectedCompletionInfo = selected_completion(bufnr, client.offset_encoding)
  end
  -- left gravity: what is typed while the server thinks stands right of the anchor
  local mine = {
    client = client,
    bufnr = bufnr,
    anchor = api.nvim_buf_set_extmark(bufnr, ANCHORS, row, col, { right_gravity = false }),
  }
  request = mine
  local asked_at = vim.uv.hrtime()
  local params = {
    textDocument = { uri = vim.uri_from_bufnr(bufnr), version = vim.lsp.util.buf_versions[bufnr] },
    position = { line = row, character = vim.str_utfindex(before, client.offset_encoding) },
    context = context,
    formattingOptions = { tabSize = vim.fn.shiftwidth(), insertSpaces = vim.bo[bufnr].expandtab },
  }
  local ok, id = client:request(METHOD, params, function(err, result)
    if request ~= mine then
      return
    end
    request = nil
    local proposals = {}
    for _, item in ipairs(not err and result and result ~= vim.NIL and (result.items or result) or {}) do
      proposals[#proposals + 1] = read_item(item, place, client.offset_encoding)
    end
    local answer = {
      bufnr = bufnr,
      anchor = mine.anchor,
      before = before,
      after = after,
      proposals = proposals,
      index = 1,
    }
    on_answer(answer)
    if shown ~= answer then
      free_anchor(mine)
    else
      M.last_ms = (vim.uv.hrtime() - asked_at) / 1e6
      vim.schedule(vim.cmd.redrawstatus)
    end
  end, bufnr)
  if ok then
    mine.id = id
  end
end

local function show(answer)
  drop('replaced')
  if #answer.proposals > 0 then
    shown = answer
    if not refresh() then
      shown = nil
    end
  end
end

local function place_key()
  local _, line, col, beyond = unpack(vim.fn.getcurpos())
  return ('%d %d %d %d %d'):format(
    api.nvim_get_current_buf(),
    api.nvim_buf_get_changedtick(0),
    line,
    col,
    beyond
  )
end

local update

--- nvim-cmp tells of its menu by events of its own, and is often loaded by the first insert mode.
local function hook_cmp()
  local cmp = not is_cmp_hooked and package.loaded['cmp']
  -- a module that is still being loaded is not a table yet
  if type(cmp) == 'table' and cmp.event then
    is_cmp_hooked = true
    for _, event in ipairs({ 'menu_opened', 'menu_closed' }) do
      cmp.event:on(event, function()
        vim.schedule(update)
      end)
    end
  end
end

--- Everything that may change what should be shown ends here; cheap when nothing did.
function update()
  if not is_inserting() then
    return
  end
  hook_cmp()
  local place = place_key()
  if refresh() then
    last_place = place
    return
  end
  drop('typedOver')
  if place == last_place then
    return
  end
  last_place = place
  local ghost = config.get().ghost
  -- no key takes a proposal while 'paste' is set: it switches all mappings of insert mode off
  if place == dismissed_at or M.is_snoozed() or not ghost.enabled or vim.b.lacuna_disabled or vim.o.paste then
    return
  end
  if is_menu_visible() and not ghost.with_menu then
    forget_request()
    -- asked for once the menu is gone, though nothing is typed by then
    last_place = ''
    return
  end
  if ghost.debounce_ms == 0 then
    ask(AUTOMATIC, show)
    return
  end
  forget_request()
  debounce = debounce or assert(vim.uv.new_timer())
  debounce:start(
    ghost.debounce_ms,
    0,
    vim.schedule_wrap(function()
      if is_inserting() and place_key() == place then
        ask(AUTOMATIC, show)
      end
    end)
  )
end

local function leave()
  forget_request()
  drop('typedOver')
  dismissed_at = nil
end

---@param bufnr integer
function M.attach(bufnr)
  local group = api.nvim_create_augroup('lacuna.ghost.' .. bufnr, {})
  api.nvim_create_autocmd({ 'InsertEnter', 'TextChangedI', 'CursorMovedI', 'TextChangedP', 'CompleteDone' }, {
    group = group,
    buffer = bufnr,
    callback = function(args)
      if args.event == 'InsertEnter' then
        -- the mode changes only after the event
        last_place = ''
        vim.schedule(update)
      else
        update()
      end
    end,
  })
  api.nvim_create_autocmd('CompleteChanged', {
    group = group,
    buffer = bufnr,
    callback = function()
      -- text is locked here, extmarks are not
      if not config.get().ghost.with_menu then
        hide()
      end
    end,
  })
  api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, { group = group, buffer = bufnr, callback = leave })
  -- the patterns of these are no buffers: one of each is enough for all
  local global = api.nvim_create_augroup('lacuna.ghost', {})
  api.nvim_create_autocmd('User', {
    group = global,
    pattern = { 'BlinkCmpMenuOpen', 'BlinkCmpMenuClose' },
    callback = function()
      vim.schedule(update)
    end,
  })
  -- CTRL-C ends insert mode without an InsertLeave
  api.nvim_create_autocmd('ModeChanged', { group = global, pattern = 'i*:[nR]*', callback = leave })
  if api.nvim_get_current_buf() == bufnr and is_inserting() then
    -- the server came up while the user was typing
    last_place = ''
    vim.schedule(update)
  end
end

--- The server is gone, or its client is set anew: nothing that was shown or asked for may stay.
function M.reset()
  forget_request()
  drop()
  last_place = ''
end

--- Is a proposal on the screen that a key could accept now?
function M.is_visible()
  return shown ~= nil and shown.drawn ~= nil and live() ~= nil
end

--- What is accepted is an undo step of its own (`:help undo-break`).
local function break_undo()
  vim.cmd('let &g:undolevels = &g:undolevels')
end

--- Change the text by put(), and let `.` and a count repeat it as typed text: of all ways to insert only a paste is
--- noted for that. What it pastes is put here and not by the user's vim.paste(), which may do anything.
---@return boolean is_put false where the editor lets nobody change text
local function put_repeatable(text, put)
  local paste, is_put = vim.paste, false
  vim.paste = function()
    put()
    is_put = true
    return true
  end
  local ok, message = pcall(api.nvim_paste, text, false, -1)
  vim.paste = paste
  if ok and not is_put then
    put()
  elseif not ok and not message:find('E565', 1, true) then
    error(message, 0)
  end
  return ok
end

-- what to take when the key comes that was sent for it
local next_cut = nil ---@type function?

--- Take it by keys of our own, which come before any other key.
---@param before string keys that have to come first
local function take_by_key(cut, before)
  next_cut = cut
  local keys = vim.keycode(before .. "<Cmd>lua require('lacuna.ghost').take_next()<CR>")
  api.nvim_feedkeys(keys, 'in', false)
  return true
end

---@param cut fun(rest: string, bufnr: integer, row: integer, col: integer, tail: integer): string what of the rest to take
local function take(cut)
  -- read from the buffer as it is now: what was drawn a moment ago may already be typed
  local rest, proposal, typed = live()
  if not rest or not shown.drawn then
    return false
  end
  if api.nvim_get_mode().mode == 'ic' then
    -- to a completion that goes on, menu or not, what is put here would be its own, and the next key would remove it.
    -- Only a key ends it and keeps its text
    return take_by_key(cut, '<C-x><C-z>')
  end
  local bufnr = shown.bufnr
  local cursor = api.nvim_win_get_cursor(0)
  local row, col = cursor[1] - 1, cursor[2]
  local part = cut(rest, bufnr, row, col, #proposal.tail)
  local is_whole = part == rest
  break_undo()
  local lines = vim.split(part, '\n', { plain = true })
  local is_put = put_repeatable(part, function()
    api.nvim_buf_set_text(bufnr, row, col, row, col + (is_whole and #proposal.tail or 0), lines)
    local end_col = #lines == 1 and col + #part or #lines[#lines]
    api.nvim_win_set_cursor(0, { row + #lines, end_col })
  end)
  if not is_put then
    -- called by an expression mapping, as people have it for the core's own ghost text
    return take_by_key(cut, '')
  end
  break_undo()
  if is_whole then
    drop()
    local client = server.client(bufnr)
    if client and proposal.command then
      client:exec_cmd(proposal.command, { bufnr = bufnr }, function() end)
    end
  else
    if proposal.id then
      local accepted = proposal.head .. proposal.text:sub(1, typed + #part)
      server.notify('lacuna/didPartiallyAccept', {
        id = proposal.id,
        acceptedLength = vim.str_utfindex(accepted, 'utf-16'),
      })
    end
    refresh()
  end
  return true
end

--- For the key of take_by_key().
function M.take_next()
  local cut = next_cut
  next_cut = nil
  if cut then
    take(cut)
  end
end

--- Put the whole proposal into the buffer. False when none is shown.
function M.accept()
  return take(function(rest)
    return rest
  end)
end

function M.accept_word()
  return take(piece.word)
end

function M.accept_line()
  return take(piece.line)
end

function M.accept_node()
  return take(piece.node)
end

function M.dismiss()
  -- what is still on its way is not wanted either
  forget_request()
  if not M.is_visible() then
    return false
  end
  dismissed_at = place_key()
  drop('explicit')
  last_place = dismissed_at
  return true
end

--- Ask here and now, whatever the automatic rules say.
function M.trigger()
  if is_inserting() then
    dismissed_at = nil
    ask(INVOKED, show)
  end
end

--- Show another alternative; when there is only one, ask for more and keep the one shown meanwhile.
function M.cycle(step)
  local rest, proposal, typed = live()
  if not rest then
    M.trigger()
    return
  end
  if #shown.proposals > 1 then
    local count = #shown.proposals
    for offset = 1, count - 1 do
      local index = (shown.index - 1 + step * offset) % count + 1
      -- only those that go on from what is typed
      if vim.startswith(shown.proposals[index].text, proposal.text:sub(1, typed)) then
        shown.index = index
        break
      end
    end
    refresh()
    return
  end
  ask(INVOKED, function(answer)
    local old = live()
    local kept = { { text = rest, tail = proposal.tail, head = proposal.head .. proposal.text:sub(1, typed) } }
    kept[1].id, kept[1].command = proposal.id, proposal.command
    local is_new = false
    for _, other in ipairs(answer.proposals) do
      if other.text ~= rest then
        kept[#kept + 1] = other
        is_new = true
      end
    end
    if old ~= rest or not is_new then
      return
    end
    local told = shown.told
    drop()
    answer.proposals, answer.index, answer.told = kept, step > 0 and 2 or #kept, told
    shown = answer
    refresh()
  end)
end

--- The user wants nothing for now: neither what is shown, nor what a menu hides, nor what is still on its way.
function M.clear()
  forget_request()
  drop('explicit')
end

function M.snooze(minutes)
  snooze_until = vim.uv.now() + minutes * 60000
  M.clear()
  vim.defer_fn(function()
    vim.cmd.redrawstatus()
  end, minutes * 60000)
end

function M.wake()
  snooze_until = 0
end

function M.is_snoozed()
  return vim.uv.now() < snooze_until
end

--- Look again, where something was dismissed, too: the user wants proposals.
function M.refresh()
  last_place, dismissed_at = '', nil
  update()
end

return M
