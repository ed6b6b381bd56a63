"""bench: a headless editor client, repository snapshots, metrics and reports.

Talks to a server over stdio like any editor, and knows no other part of Lacuna but the cutting of spans.
"""
