"""The first stage: autoencoder, discriminator, objective, step, encode and decode."""
