-- Lets vim.pack and lazy.nvim install this repository as it is: the Neovim plugin itself stands in editors/neovim.
local root = vim.fs.dirname(vim.fs.dirname(vim.fs.abspath(debug.getinfo(1, 'S').source:sub(2))))
vim.opt.runtimepath:append(vim.fs.joinpath(root, 'editors', 'neovim'))
dofile(vim.fs.joinpath(root, 'editors', 'neovim', 'plugin', 'lacuna.lua'))
