"""Real networks: their data, their architectures, one training loop, and what is measured on them."""
