"""From series to volume: geometry, order, rescale, decode. Numpy only."""
