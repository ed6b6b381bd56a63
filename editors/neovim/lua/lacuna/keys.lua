--- Insert-mode keys. A key does what it did before whenever Lacuna has nothing for it.

local M = {}

-- buffer -> mode and lhs of each mapping of ours, and the buffer-local mapping that stood there before it
local ours = {}

local ACTIONS = {
  accept = 'accept()',
  accept_word = 'accept_word()',
  accept_line = 'accept_line()',
  accept_node = 'accept_node()',
  next = 'next()',
  previous = 'previous()',
  dismiss = 'dismiss()',
}

-- the callback that stands under our mapping, between the mapping's end and the call
local under = nil ---@type function?

local function raw(lhs)
  return vim.keycode(lhs)
end

local function global_mapping(lhs)
  for _, map in ipairs(vim.api.nvim_get_keymap('i')) do
    if raw(map.lhs) == raw(lhs) then
      return map
    end
  end
end

--- The keys that the mapping under ours would have produced.
---@param before? table the buffer-local one
local function fallback(before, lhs)
  local map = before or global_mapping(lhs)
  if not map then
    -- the editor makes <Esc>x of an <M-x> without a mapping only when it is typed, not when a mapping gives it
    local char = raw(lhs):match('^\128\252\8(.+)$')
    if not char then
      return raw(lhs)
    end
    vim.api.nvim_feedkeys('\27' .. char, 'mi', false)
    return ''
  end
  local rhs = (map.rhs or ''):gsub('<[sS][iI][dD]>', ('<SNR>%d_'):format(map.sid))
  if map.expr == 1 then
    local result
    if map.callback then
      result = map.callback()
    elseif rhs ~= '' then
      result = vim.api.nvim_eval(rhs)
    end
    if type(result) ~= 'string' then
      return ''
    end
    return map.replace_keycodes == 1 and raw(result) or result
  elseif map.callback then
    -- an expression mapping must not change text, so the callback runs once it has returned, before any other key
    under = map.callback
    return raw("<Cmd>lua require('lacuna.keys').call_under()<CR>")
  end
  local keys = raw(rhs)
  if map.noremap == 1 then
    return keys
  end
  -- what goes first into the typeahead comes last. A right-hand side that begins with its own key means the key itself
  -- there, as the editor has it, or ours would call itself
  local own = raw(lhs)
  local begins = vim.startswith(keys, own)
  vim.api.nvim_feedkeys(begins and keys:sub(#own + 1) or keys, 'mi', false)
  if begins then
    vim.api.nvim_feedkeys(own, 'ni', false)
  end
  return ''
end

--- What the mapping under ours does, when that is a function.
function M.call_under()
  local callback = under
  under = nil
  if callback then
    callback()
  end
end

local function is_ours(mapping)
  return mapping.buffer == 1 and (mapping.desc or ''):match('^Lacuna:') ~= nil
end

local function mapping_at(bufnr, mode, lhs)
  return vim.api.nvim_buf_call(bufnr, function()
    return vim.fn.maparg(lhs, mode, false, true)
  end)
end

--- Take our keys away and put back what stood there before.
local function detach(bufnr)
  for _, key in ipairs(ours[bufnr] or {}) do
    if is_ours(mapping_at(bufnr, key.mode, key.lhs)) then
      vim.keymap.del(key.mode, key.lhs, { buf = bufnr })
      if key.before then
        vim.api.nvim_buf_call(bufnr, function()
          vim.fn.mapset(key.mode, false, key.before)
        end)
      end
    end
  end
  ours[bufnr] = {}
end

---@param bufnr integer
function M.attach(bufnr)
  detach(bufnr)
  local function map(mode, lhs, rhs, opts, before)
    vim.keymap.set(mode, lhs, rhs, vim.tbl_extend('force', { buf = bufnr }, opts))
    table.insert(ours[bufnr], { mode = mode, lhs = lhs, before = before })
  end
  local config = require('lacuna.config')
  local keys = config.get().keys
  for name, action in pairs(ACTIONS) do
    local lhs = keys[name]
    if lhs then
      -- another plugin may lay its mapping over this one and call it, and we lay a new one over that when the server
      -- was restarted: so each knows for itself what stood there before, and calls nothing that calls it
      local mapping = mapping_at(bufnr, 'i', lhs)
      local before = mapping.buffer == 1 and not is_ours(mapping) and mapping or nil
      map('i', lhs, function()
        -- asking for an alternative where nothing is shown means: ask for a proposal
        local has_use = require('lacuna.ghost').is_visible() or name == 'next' or name == 'previous'
        if has_use and config.get().keys[name] == lhs then
          return raw(("<Cmd>lua require('lacuna').%s<CR>"):format(action))
        end
        return fallback(before, lhs)
      end, { expr = true, replace_keycodes = false, desc = 'Lacuna: ' .. name:gsub('_', ' ') }, before)
    end
  end
  if keys.trigger then
    map('i', keys.trigger, function()
      require('lacuna').trigger()
    end, { desc = 'Lacuna: trigger' })
  end
  if keys.next_edit then
    map('n', keys.next_edit, function()
      require('lacuna').next_edit()
    end, { desc = 'Lacuna: next edit' })
  end
  vim.api.nvim_create_autocmd('BufWipeout', {
    group = vim.api.nvim_create_augroup('lacuna.keys.' .. bufnr, {}),
    buffer = bufnr,
    callback = vim.schedule_wrap(function()
      -- one that is given its first name is said to be wiped out, too
      if not vim.api.nvim_buf_is_valid(bufnr) then
        ours[bufnr] = nil
      end
    end),
  })
end

return M
