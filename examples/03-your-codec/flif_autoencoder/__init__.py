"""An autoencoder whose latent goes through FLIF."""
