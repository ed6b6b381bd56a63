--- Finding, starting, restarting and talking to the server. Knows nothing of ghost text or previews.

local M = {}

---@class lacuna.Status
---@field kind 'normal'|'busy'|'warning'|'error'|'inactive'
---@field message string
---@field model? string
---@field device? string
---@field lastLatencyMs? number
---@field isPaused? boolean

---@type lacuna.Status?
M.status = nil

-- crashes within this time count towards the back-off
local WINDOW_S = 180
local MAX_RESTARTS = 5
local crashes = {}
local is_restart_queued, is_revival_queued = false, false
-- ids of the clients that were told to stop: their exit is no crash
local stopping = {} ---@type table<integer, true>
-- the user's pause, which a crash must not end
local is_paused = false
local has_complained = false
-- does this plugin show the proposals, or, started without it, the core's own client?
local is_used = false
local can_complete = {} ---@type table<integer, true> ids of the clients whose server offers inline completion

local function is_file(path)
  return vim.fn.executable(path) == 1
end

--- Where `:Lacuna install` puts a server of its own.
function M.private_dir()
  return vim.fs.joinpath(vim.fn.stdpath('data') --[[@as string]], 'lacuna', 'venv')
end

--- What pip installs: the repository that this plugin lies in, as every package manager clones it, else the package.
function M.package()
  local root = vim.fs.abspath(debug.getinfo(1, 'S').source:sub(2))
  for _ = 1, 5 do
    root = vim.fs.dirname(root)
  end
  local is_whole = vim.uv.fs_stat(vim.fs.joinpath(root, 'pyproject.toml')) and vim.uv.fs_stat(vim.fs.joinpath(root, 'lsp'))
  return is_whole and root or 'lacuna-ls'
end

--- The command that starts the server, and where it was found; nil with the places that were looked at.
---@return string[]?, string
function M.command()
  local cmd = require('lacuna.config').get().cmd
  if cmd then
    if #cmd > 0 and is_file(cmd[1]) then
      return cmd, 'cmd'
    end
    return nil, ('cmd names %s, which is not an executable'):format(vim.inspect(cmd[1]))
  end
  local suffix = vim.fn.has('win32') == 1 and 'Scripts/lacuna.exe' or 'bin/lacuna'
  local env = vim.env.VIRTUAL_ENV
  if env and env ~= '' and is_file(vim.fs.joinpath(env, suffix)) then
    return { vim.fs.joinpath(env, suffix), 'serve' }, '$VIRTUAL_ENV'
  end
  local on_path = vim.fn.exepath('lacuna')
  if on_path ~= '' then
    return { on_path, 'serve' }, '$PATH'
  end
  if is_file(vim.fs.joinpath(M.private_dir(), suffix)) then
    return { vim.fs.joinpath(M.private_dir(), suffix), 'serve' }, ':Lacuna install'
  end
  return nil, 'no `lacuna` in $VIRTUAL_ENV, on $PATH or in ' .. M.private_dir()
end

local function tell(message, level)
  if require('lacuna.config').get().notify then
    vim.notify('lacuna: ' .. message, level)
  end
end

---@param status lacuna.Status
function M.set_status(status)
  local before = M.status
  M.status = status
  if status.isPaused ~= nil then
    is_paused = status.isPaused == true
  end
  if status.kind == 'error' and status.message ~= '' and not (before and before.message == status.message) then
    tell(status.message, vim.log.levels.ERROR)
  end
  vim.api.nvim_exec_autocmds('User', { pattern = 'LacunaStatus', modeline = false })
  vim.cmd.redrawstatus()
end

--- The client, when it runs. bufnr: only when attached there.
---@return vim.lsp.Client?
function M.client(bufnr)
  for _, client in ipairs(vim.lsp.get_clients({ name = 'lacuna', bufnr = bufnr })) do
    if not client:is_stopped() then
      return client
    end
  end
end

--- Have this plugin show what the server proposes. One ghost is enough: whatever switches the core's own client on, and
--- whenever, it finds nothing to ask here.
---@param client vim.lsp.Client
function M.take_over(client)
  can_complete[client.id] = M.can_complete(client) or nil
  client.server_capabilities.inlineCompletionProvider = nil
end

--- Does the client's server propose anything?
---@param client vim.lsp.Client
function M.can_complete(client)
  return can_complete[client.id] or client:supports_method('textDocument/inlineCompletion')
end

--- Every client that has not exited yet, those that wait for a server that hangs at its start among them.
local function processes()
  -- no public filter finds the latter; the core itself uses this one everywhere
  return vim.lsp.get_clients({ name = 'lacuna', _uninitialized = true })
end

--- One server for the whole editor: a file of another project joins it, and the root becomes a folder of its workspace.
---@param client vim.lsp.Client
local function reuse_client(client, config)
  if client.name ~= config.name or client:is_stopped() then
    return false
  end
  local folders = client.workspace_folders or {}
  local dir = config.root_dir
  local is_known = not dir or vim.iter(folders):any(function(folder)
    return folder.uri == vim.uri_from_fname(dir)
  end)
  if not is_known then
    local folder = { uri = vim.uri_from_fname(dir), name = dir }
    client.workspace_folders = vim.list_extend(folders, { folder })
    -- before that on_init tells it
    if client.initialized then
      client:notify('workspace/didChangeWorkspaceFolders', { event = { added = { folder }, removed = {} } })
    end
  end
  return true
end

local function on_init(client)
  if is_used then
    M.take_over(client)
  end
  -- the one that initialize has told is the root's
  local joined = vim.list_slice(client.workspace_folders or {}, client.root_dir and 2 or 1)
  if #joined > 0 then
    client:notify('workspace/didChangeWorkspaceFolders', { event = { added = joined, removed = {} } })
  end
  if is_paused then
    client:request('lacuna/pause', vim.empty_dict(), function(_, status)
      if status then
        M.set_status(status)
      end
    end)
  end
end

local function on_exit(code, signal, id)
  local client = vim.lsp.get_client_by_id(id)
  -- `:lsp stop`, vim.lsp.enable(.., false) and others that stop a client leave no other trace than this field
  local was_wanted = stopping[id] or client and client._is_stopping
  stopping[id], can_complete[id] = nil, nil
  vim.schedule(function()
    if vim.v.exiting ~= vim.NIL then
      return
    end
    require('lacuna.ghost').reset()
    if was_wanted then
      if is_restart_queued then
        is_restart_queued = false
        M.start()
      elseif not M.client() then
        M.set_status({ kind = 'inactive', message = 'stopped' })
      end
      return
    end
    local now = vim.uv.now() / 1000
    crashes = vim.tbl_filter(function(t)
      return now - t < WINDOW_S
    end, crashes)
    crashes[#crashes + 1] = now
    local how = signal ~= 0 and ('signal %d'):format(signal) or ('code %d'):format(code)
    if #crashes > MAX_RESTARTS then
      M.set_status({
        kind = 'error',
        message = ('the server stopped %d times in %d minutes (%s); see :Lacuna log, then :Lacuna restart'):format(
          #crashes,
          WINDOW_S / 60,
          how
        ),
      })
      return
    end
    local wait_ms = 250 * 2 ^ (#crashes - 1)
    M.set_status({ kind = 'warning', message = ('the server stopped (%s); starting it again'):format(how) })
    if is_revival_queued then
      return
    end
    is_revival_queued = true
    vim.defer_fn(function()
      -- :Lacuna stop may have come in between
      if is_revival_queued and not M.client() then
        M.start()
      end
      is_revival_queued = false
    end, wait_ms)
  end)
end

--- The config for vim.lsp.config.lacuna.
function M.config()
  local config = require('lacuna.config').get()
  local settings = { lacuna = next(config.settings) and config.settings or vim.empty_dict() }
  return {
    cmd = M.command() or { 'lacuna', 'serve' },
    filetypes = config.filetypes,
    root_markers = { '.git', 'pyproject.toml', 'package.json', 'go.mod', 'Cargo.toml' },
    settings = settings,
    init_options = settings.lacuna,
    -- a file without a project is served too
    workspace_required = false,
    -- the server is asked to leave, and made to when it does not
    exit_timeout = 1000,
    handlers = {
      ['$/lacuna/status'] = function(_, params)
        M.set_status(params)
      end,
    },
    reuse_client = reuse_client,
    on_init = { on_init },
    on_exit = { on_exit },
  }
end

--- Let the core start the server for every open buffer of ours and each one to come.
---@param is_asked_for? boolean by the user: then a missing server is said however often
function M.start(is_asked_for)
  local cmd, where = M.command()
  if not cmd then
    M.status = { kind = 'error', message = 'server not found: ' .. where }
    if is_asked_for or not has_complained then
      has_complained = true
      tell('server not found: ' .. where .. '. :Lacuna install, or see :checkhealth lacuna', vim.log.levels.WARN)
    end
    return false
  end
  has_complained, is_used = false, true
  require('lacuna').hook()
  -- settings may have changed since the config was read from lsp/lacuna.lua
  local config = M.config()
  vim.lsp.config('lacuna', { cmd = config.cmd, settings = config.settings, init_options = config.init_options })
  vim.lsp.enable('lacuna')
  return true
end

function M.stop()
  is_restart_queued, is_revival_queued, is_paused = false, false, false
  local clients = processes()
  for _, client in ipairs(clients) do
    stopping[client.id] = true
  end
  vim.lsp.enable('lacuna', false)
  for _, client in ipairs(clients) do
    -- the core leaves out one that is still starting
    if not client:is_stopped() then
      client:stop(true)
    end
  end
end

--- One running, at most one queued.
function M.restart()
  crashes = {}
  if #processes() == 0 then
    M.start(true)
  elseif not is_restart_queued then
    M.stop()
    is_restart_queued = true
  end
end

--- Send a request; the handler gets (result, message) and runs only while the client lives.
---@return integer? id
function M.request(method, params, handler, bufnr)
  local client = M.client(bufnr)
  if not client then
    if handler then
      handler(nil, 'the server is not running')
    end
    return
  end
  local ok, id = client:request(method, params, function(err, result)
    if handler then
      handler(result ~= vim.NIL and result or nil, err and err.message)
    end
  end, bufnr)
  return ok and id or nil
end

function M.notify(method, params)
  local client = M.client()
  if client then
    client:notify(method, params)
  end
end

--- Send the server its settings again after a change.
function M.configure(settings)
  local client = M.client()
  vim.lsp.config('lacuna', { settings = { lacuna = settings } })
  if client then
    client.settings = { lacuna = settings }
    client:notify('workspace/didChangeConfiguration', { settings = client.settings })
  end
end

--- A private virtual environment with the server in it. Asks first: it downloads.
function M.install()
  local dir, package = M.private_dir(), M.package()
  if vim.fn.confirm(('Install %s with pip into %s?'):format(package, dir), '&Yes\n&No', 2) ~= 1 then
    return
  end
  -- Windows has no python3 but one that opens a shop, and python.org's installer leaves only its launcher on the path
  local names = vim.fn.has('win32') == 1 and { 'py', 'python' } or { 'python3', 'python' }
  local python = vim.iter(names):map(vim.fn.exepath):find(function(path)
    return path ~= ''
  end)
  if not python then
    tell(('neither %s is on $PATH'):format(table.concat(names, ' nor ')), vim.log.levels.ERROR)
    return
  end
  local function step(command, after)
    tell('running ' .. table.concat(command, ' '), vim.log.levels.INFO)
    vim.system(command, { text = true }, function(done)
      vim.schedule(function()
        if done.code ~= 0 then
          -- venv says on stdout what Debian's Python lacks for it
          local said = vim.trim(done.stderr ~= '' and done.stderr or done.stdout)
          tell(('%s failed:\n%s'):format(command[1], said), vim.log.levels.ERROR)
        else
          after()
        end
      end)
    end)
  end
  local bin = vim.fn.has('win32') == 1 and 'Scripts/python.exe' or 'bin/python'
  step({ python, '-m', 'venv', dir }, function()
    step({ vim.fs.joinpath(dir, bin), '-m', 'pip', 'install', '--upgrade', package }, function()
      tell('installed', vim.log.levels.INFO)
      M.start()
    end)
  end)
end

return M
