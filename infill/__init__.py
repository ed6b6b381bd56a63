"""infill: text and offsets in, text out. Spans, context, canvas layout, trimming.

Knows no LSP type and holds no tensor. Importing this package loads no torch.
"""
