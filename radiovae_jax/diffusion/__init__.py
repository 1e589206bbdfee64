"""The second stage: conditional diffusion of the first stage's latents."""
