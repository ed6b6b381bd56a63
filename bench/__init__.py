"""bench: a headless editor client, repository snapshots, metrics and reports.

Talks to a server over stdio like any editor; of Lacuna's own code it knows `infill/` only.
"""
