"""training: builds corpora, trains the embedded model, adapts a model to the user's own repository."""
