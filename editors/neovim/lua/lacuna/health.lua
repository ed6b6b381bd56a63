--- `:checkhealth lacuna`: what was found, and what to do about what is missing.

local M = {}

function M.check()
  local health = vim.health
  local config = require('lacuna.config')
  local server = require('lacuna.server')

  health.start('lacuna: editor')
  if vim.fn.has('nvim-0.12') == 1 then
    health.ok('Neovim ' .. tostring(vim.version()))
  else
    health.error('Neovim 0.12 or newer is needed')
  end
  local settings = config.get()
  for _, message in ipairs(config.messages or {}) do
    health.warn(message)
  end
  if #(config.messages or {}) == 0 then
    health.ok('the configuration is valid')
  end
  for name, lhs in pairs(settings.keys) do
    local map = lhs and vim.fn.maparg(lhs, name == 'next_edit' and 'n' or 'i', false, true) or {}
    if map.lhs and not (map.desc or ''):match('^Lacuna:') and map.desc ~= 'vim.snippet.jump if active, otherwise <Tab>' then
      health.info(('%s (keys.%s) is also mapped elsewhere: %s'):format(lhs, name, map.desc or map.rhs or 'a function'))
    end
  end
  for _, name in ipairs({ 'copilot', 'supermaven-nvim', 'minuet', 'codeium' }) do
    if package.loaded[name] then
      health.warn(name .. ' shows ghost text too; the two will overlap')
    end
  end

  health.start('lacuna: server')
  local cmd, where = server.command()
  if not cmd then
    health.error('server not found: ' .. where, { ':Lacuna install', 'pip install ' .. server.package(), 'or set `cmd`' })
    return
  end
  health.ok(('%s (from %s)'):format(table.concat(cmd, ' '), where))
  if cmd[#cmd] == 'serve' then
    local ok, done = pcall(function()
      return vim.system({ cmd[1], '--version' }, { text = true }):wait(20000)
    end)
    if ok and done.code == 0 then
      health.ok(vim.trim(done.stdout))
    else
      health.error('it does not start', vim.split(vim.trim(ok and done.stderr or tostring(done)), '\n'))
    end
  end
  local client = server.client()
  if not client then
    health.info('not running; it starts with the first file of: ' .. table.concat(settings.filetypes, ', '))
    return
  end
  health.ok(('running, attached to %d buffer(s)'):format(vim.tbl_count(client.attached_buffers)))
  if server.can_complete(client) then
    health.ok('offers inline completion')
  else
    health.error('does not offer inline completion: is it really Lacuna?')
  end
  local status = server.status
  if status then
    local report = status.kind == 'error' and health.error or status.kind == 'warning' and health.warn or health.info
    report(('%s %s %s'):format(status.kind, status.model or '', status.message or ''))
  end
end

return M
