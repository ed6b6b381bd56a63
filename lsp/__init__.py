"""lsp: the only room that knows LSP, positions, asyncio and processes. Importing it loads no torch."""
