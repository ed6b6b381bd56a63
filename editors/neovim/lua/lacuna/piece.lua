--- Pieces of a proposal: its next word, line or syntax node. Text in, text out; reads the buffer only to parse it.

local M = {}

-- lines of the buffer that are parsed around the cursor: enough for any statement, and bounded in a large file
local WINDOW = 200

--- White space and the word, or the run of other characters, behind it.
---@param rest string
function M.word(rest)
  return rest:match('^%s*[%w_\128-\255]+') or rest:match('^%s*[^%w_%s\128-\255]+') or rest
end

--- To the end of the line; from there, the line break and the next line.
---@param rest string
function M.line(rest)
  return rest:match('^[^\n]+') or rest:match('^\n+[^\n]*') or rest
end

--- A balanced piece, where no parser is at hand: up to the close of the first bracket, else the line.
local function balanced(rest)
  local line = M.line(rest)
  local start = rest:find('[%(%[{]')
  if not start or start > #line then
    return line
  end
  local closing = rest:match('^%b()', start) or rest:match('^%b[]', start) or rest:match('^%b{}', start)
  return closing and rest:sub(1, start - 1 + #closing) or line
end

--- A byte offset as row, col, row, col + 1: the character there, as tree-sitter wants it.
local function point(text, offset)
  local row, last = 0, 0
  for at in text:sub(1, offset):gmatch('()\n') do
    row, last = row + 1, at
  end
  local col = offset - last
  return row, col, row, col + 1
end

--- The largest syntax node that begins where the proposal does and ends inside it; failing that, the smallest that the
--- cursor stands in and that ends inside it.
---@param rest string
function M.node(rest, bufnr, row, col, tail)
  local language = vim.treesitter.language.get_lang(vim.bo[bufnr].filetype)
  if not language or not pcall(vim.treesitter.language.add, language) then
    return balanced(rest)
  end
  local first = math.max(0, row - WINDOW)
  local above = vim.api.nvim_buf_get_lines(bufnr, first, row, false)
  local line = vim.api.nvim_buf_get_lines(bufnr, row, row + 1, false)[1]
  local below = vim.api.nvim_buf_get_lines(bufnr, row + 1, row + WINDOW, false)
  above[#above + 1] = line:sub(1, col)
  local before = table.concat(above, '\n')
  local text = before .. rest .. table.concat({ line:sub(col + tail + 1), unpack(below) }, '\n')
  local ok, parser = pcall(vim.treesitter.get_string_parser, text, language)
  local trees = ok and parser and parser:parse()
  local root = trees and trees[1] and trees[1]:root()
  if not root then
    return balanced(rest)
  end
  -- a node begins at its first character, not at the white space before it
  local start = #before + #rest:match('^%s*')
  local limit = #before + #rest
  local best, inside
  local node = root:descendant_for_range(point(text, start))
  while node do
    local _, _, from, _, _, to = node:range(true)
    if to <= limit and to > start then
      if from == start then
        best = to
      elseif from < start and not inside then
        inside = to
      end
    end
    node = node:parent()
  end
  local stop = best or inside
  if not stop or stop <= #before then
    return balanced(rest)
  end
  return rest:sub(1, stop - #before)
end

return M
