-- What vim.lsp.enable('lacuna') starts. Works without the rest of the plugin too, with the core's own client.
return require('lacuna.server').config()
