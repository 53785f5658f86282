"""canonical → pruned: narrower layers, fewer heads."""
