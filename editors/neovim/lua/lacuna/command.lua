--- `:Lacuna` and its subcommands, declared in one table from which completion and `:help` come.

local M = {}

local function server()
  return require('lacuna.server')
end

local function say(text)
  vim.api.nvim_echo({ { text } }, false, {})
end

local function describe(status)
  local parts = { 'lacuna: ' .. status.kind }
  for _, part in ipairs({ status.message or '', status.model or '', status.device or '' }) do
    if part ~= '' and part ~= vim.NIL then
      parts[#parts + 1] = part
    end
  end
  if type(status.lastLatencyMs) == 'number' then
    parts[#parts + 1] = ('server %.0f ms'):format(status.lastLatencyMs)
  end
  local ms = require('lacuna.ghost').last_ms
  if ms then
    parts[#parts + 1] = ('request to screen %.0f ms'):format(ms)
  end
  return table.concat(parts, ' · ')
end

--- Send what the server answers with its status, and say that. after: what comes then, whatever the answer.
---@param after? fun()
local function ask_status(method, after)
  server().request(method, vim.empty_dict(), function(status, message)
    if status then
      server().set_status(status)
      say(describe(status))
    else
      say('lacuna: ' .. (message or 'no answer'))
    end
    if after then
      after()
    end
  end)
end

--- The lines that the command was given, if any.
local function lines_of(args)
  return args.range > 0 and { args.line1, args.line2 } or nil
end

--- Settle previewed changes; says so where there are none.
local function settle(action, rest)
  if not require('lacuna.preview')[rest == 'all' and action .. '_all' or action]() then
    say('lacuna: no change is previewed here')
  end
end

---@class lacuna.Subcommand
---@field name string
---@field args? string
---@field help string
---@field run fun(rest: string, args: table)

---@type lacuna.Subcommand[]
M.subcommands = {
  {
    name = 'status',
    help = 'Say what the server does: model, device, latency.',
    run = function()
      if not server().client() then
        local status = server().status
        say(status and describe(status) or 'lacuna: the server is not running')
        return
      end
      ask_status('lacuna/status')
    end,
  },
  {
    name = 'trigger',
    help = 'Ask for a proposal at the cursor.',
    run = function()
      if vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i' then
        vim.cmd.startinsert()
      end
      vim.schedule(function()
        require('lacuna').trigger()
      end)
    end,
  },
  {
    name = 'fill',
    help = 'Fill the hole under the cursor (`...`, `pass`, TODO, an empty body), or at the end of the lines given, '
      .. 'with a preview.',
    run = function(_, args)
      require('lacuna.edit').fill_hole(lines_of(args))
    end,
  },
  {
    name = 'fillall',
    help = 'Fill all holes of the file jointly, with a preview.',
    run = function()
      require('lacuna').fill_all()
    end,
  },
  {
    name = 'rewrite',
    args = '[instruction]',
    help = 'Rewrite the selected lines, with a preview. With `!`, ask for an instruction.',
    run = function(rest, args)
      local instruction = rest ~= '' and rest or (args.bang and '' or nil)
      require('lacuna.edit').rewrite(instruction, lines_of(args))
    end,
  },
  {
    name = 'repair',
    help = 'Mend the syntax error at the cursor, or in the line given, with a preview.',
    run = function(_, args)
      require('lacuna.edit').repair(lines_of(args))
    end,
  },
  {
    name = 'next',
    help = 'Jump to the next proposed edit and preview it.',
    run = function()
      require('lacuna').next_edit()
    end,
  },
  {
    name = 'accept',
    args = '[all]',
    help = 'Accept the previewed change under the cursor, or all of them.',
    run = function(rest)
      settle('accept', rest)
    end,
  },
  {
    name = 'refuse',
    args = '[all]',
    help = 'Refuse the previewed change under the cursor, or all of them.',
    run = function(rest)
      settle('refuse', rest)
    end,
  },
  {
    name = 'pause',
    help = 'Stop proposing, in all windows of this server.',
    run = function()
      require('lacuna.ghost').clear()
      ask_status('lacuna/pause')
    end,
  },
  {
    name = 'resume',
    help = 'Go on after `pause` or `snooze`.',
    run = function()
      local ghost = require('lacuna.ghost')
      ghost.wake()
      ask_status('lacuna/resume', ghost.refresh)
    end,
  },
  {
    name = 'snooze',
    args = '[minutes]',
    help = 'Keep quiet for a while (|lacuna-config| `snooze_minutes`).',
    run = function(rest)
      local minutes = rest == '' and require('lacuna.config').get().snooze_minutes or tonumber(rest)
      -- `nan` is a number, and not even less than 0
      if not (minutes and minutes >= 0) then
        vim.notify(('lacuna: snooze takes a number of minutes, not %q'):format(rest), vim.log.levels.ERROR)
        return
      end
      require('lacuna.ghost').snooze(minutes)
      say(('lacuna: quiet for %g minutes; :Lacuna resume ends it'):format(minutes))
    end,
  },
  {
    name = 'unload',
    help = "Give the model's memory back until the next request.",
    run = function()
      ask_status('lacuna/unload')
    end,
  },
  {
    name = 'disable',
    help = 'No ghost text in this buffer.',
    run = function()
      vim.b.lacuna_disabled = true
      require('lacuna.ghost').clear()
    end,
  },
  {
    name = 'enable',
    help = 'Ghost text in this buffer again.',
    run = function()
      vim.b.lacuna_disabled = nil
      require('lacuna.ghost').refresh()
    end,
  },
  {
    name = 'metrics',
    args = '[purge]',
    help = 'Show the local counts of proposals shown and accepted.',
    run = function(rest)
      server().request('lacuna/metrics', { purge = rest == 'purge' }, function(result, message)
        say(result and vim.inspect(result) or 'lacuna: ' .. (message or 'no answer'))
      end)
    end,
  },
  {
    name = 'start',
    help = 'Start the server.',
    run = function()
      server().start(true)
    end,
  },
  {
    name = 'stop',
    help = 'Stop the server.',
    run = function()
      server().stop()
    end,
  },
  {
    name = 'restart',
    help = 'Stop the server and start it again.',
    run = function()
      server().restart()
    end,
  },
  {
    name = 'install',
    help = 'Install the server into a private virtual environment. Asks first.',
    run = function()
      server().install()
    end,
  },
  {
    name = 'log',
    help = 'Open the log of the language client, which has what the server wrote to stderr.',
    run = function()
      vim.cmd.tabedit(vim.fn.fnameescape(vim.lsp.log.get_filename()))
      vim.cmd('normal! G')
    end,
  },
  {
    name = 'health',
    help = 'Run `:checkhealth lacuna`.',
    run = function()
      vim.cmd.checkhealth('lacuna')
    end,
  },
}

function M.run(args)
  local name, rest = args.args:match('^(%S*)%s*(.-)%s*$')
  if name == '' then
    name = 'status'
  end
  for _, subcommand in ipairs(M.subcommands) do
    if subcommand.name == name then
      subcommand.run(rest, args)
      return
    end
  end
  vim.notify(('lacuna: no subcommand %q; :Lacuna <Tab> lists them'):format(name), vim.log.levels.ERROR)
end

function M.complete(lead, line)
  local before = line:sub(1, #line - #lead)
  if not before:match('Lac%a*!?%s+$') then
    local name = before:match('Lac%a*!?%s+(%S+)')
    local values = ({ accept = { 'all' }, refuse = { 'all' }, metrics = { 'purge' } })[name] or {}
    return vim.tbl_filter(function(value)
      return vim.startswith(value, lead)
    end, values)
  end
  return vim
    .iter(M.subcommands)
    :map(function(subcommand)
      return subcommand.name
    end)
    :filter(function(name)
      return vim.startswith(name, lead)
    end)
    :totable()
end

return M
