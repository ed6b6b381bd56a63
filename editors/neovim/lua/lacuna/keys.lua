--- Insert-mode keys. A key does what it did before whenever Lacuna has nothing for it.

local M = {}

-- buffer -> lhs -> the buffer-local mapping that stood there before ours
local before = {}

local ACTIONS = {
  accept = 'accept()',
  accept_word = 'accept_word()',
  accept_line = 'accept_line()',
  accept_node = 'accept_node()',
  next = 'next()',
  previous = 'previous()',
  dismiss = 'dismiss()',
}

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
local function fallback(bufnr, lhs)
  local map = (before[bufnr] or {})[lhs] or global_mapping(lhs)
  if not map then
    return raw(lhs)
  end
  if map.expr == 1 then
    local result = map.callback and map.callback() or vim.api.nvim_eval(map.rhs)
    if type(result) ~= 'string' then
      return ''
    end
    return map.replace_keycodes == 1 and raw(result) or result
  elseif map.callback then
    -- an expression mapping must not change text, so the callback runs as soon as it has returned
    vim.schedule(map.callback)
    return ''
  end
  local keys = raw(map.rhs or '')
  if map.noremap == 1 then
    return keys
  end
  vim.api.nvim_feedkeys(keys, 'mi', false)
  return ''
end

---@param bufnr integer
function M.attach(bufnr)
  before[bufnr] = before[bufnr] or {}
  local keys = require('lacuna.config').get().keys
  for name, action in pairs(ACTIONS) do
    local lhs = keys[name]
    if lhs then
      local mapping = vim.api.nvim_buf_call(bufnr, function()
        return vim.fn.maparg(lhs, 'i', false, true)
      end)
      if mapping.buffer == 1 and not (mapping.desc or ''):match('^Lacuna:') then
        before[bufnr][lhs] = mapping
      end
      vim.keymap.set('i', lhs, function()
        -- asking for an alternative where nothing is shown means: ask for a proposal
        if require('lacuna.ghost').is_visible() or name == 'next' or name == 'previous' then
          return raw(("<Cmd>lua require('lacuna').%s<CR>"):format(action))
        end
        return fallback(bufnr, lhs)
      end, { buf = bufnr, expr = true, replace_keycodes = false, desc = 'Lacuna: ' .. name:gsub('_', ' ') })
    end
  end
  if keys.trigger then
    vim.keymap.set('i', keys.trigger, function()
      require('lacuna').trigger()
    end, { buf = bufnr, desc = 'Lacuna: trigger' })
  end
  if keys.next_edit then
    vim.keymap.set('n', keys.next_edit, function()
      require('lacuna').next_edit()
    end, { buf = bufnr, desc = 'Lacuna: next edit' })
  end
  vim.api.nvim_create_autocmd('BufWipeout', {
    buffer = bufnr,
    callback = function()
      before[bufnr] = nil
    end,
  })
end

return M
