"""Building blocks of both stages: layers, posterior, LPIPS, cached gradients."""
