-- What an editor start costs: one command and one autocommand. Everything else waits for a file that Lacuna serves.
if vim.g.loaded_lacuna then
  return
end
vim.g.loaded_lacuna = true
if vim.fn.has('nvim-0.12') == 0 then
  vim.api.nvim_echo({ { 'lacuna: needs Neovim 0.12 or newer', 'WarningMsg' } }, true, {})
  return
end

vim.api.nvim_create_user_command('Lacuna', function(args)
  require('lacuna.command').run(args)
end, {
  nargs = '*',
  range = true,
  bang = true,
  desc = 'Lacuna: code infilling',
  complete = function(...)
    return require('lacuna.command').complete(...)
  end,
})

local function look_at(bufnr)
  -- help, quickfix, prompts and terminals are nobody's code
  if vim.bo[bufnr].buftype == '' then
    require('lacuna').on_filetype(bufnr)
  end
end

-- the files that are open already, once nothing else waits: the first screen does not wait for a server to be started,
-- and a plugin manager calls setup() right after this file
local function look_at_all()
  vim.schedule(function()
    vim.iter(vim.api.nvim_list_bufs()):filter(vim.api.nvim_buf_is_loaded):each(look_at)
  end)
end

local group = vim.api.nvim_create_augroup('lacuna.start', {})
vim.api.nvim_create_autocmd('FileType', {
  group = group,
  callback = function(args)
    if vim.v.vim_did_enter == 1 then
      look_at(args.buf)
    end
  end,
})
if vim.v.vim_did_enter == 1 then
  -- as lazy.nvim may do
  look_at_all()
else
  vim.api.nvim_create_autocmd('VimEnter', { group = group, once = true, callback = look_at_all })
end
