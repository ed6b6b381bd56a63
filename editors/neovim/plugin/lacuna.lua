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

local group = vim.api.nvim_create_augroup('lacuna.start', {})
vim.api.nvim_create_autocmd('FileType', {
  group = group,
  callback = function(args)
    -- help, quickfix, prompts and terminals are nobody's code
    if vim.bo[args.buf].buftype == '' then
      require('lacuna').on_filetype(args.buf)
    end
  end,
})
