"""From options to an infiller: the only place that decides which engine a server uses. Called in the engine thread.

Knows options and the facade of infill/; knows no protocol.
"""

from __future__ import annotations

from ..infill.request import Infiller
from .options import Options


def load_infiller(options: Options) -> Infiller:
    """The infiller that the options ask for. Raises LacunaError with a message for the user."""
    from ..infill.load import load_infiller as load

    return load(model=options.engine.model, device=options.engine.device)
