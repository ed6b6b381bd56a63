"""engine: token ids in, token ids out. Model, KV cache, denoise loop, checkpoints.

Knows no text, no document and no editor. Importing this package loads no torch; its modules do.
"""
