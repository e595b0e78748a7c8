"""The rungs of the ladder from free features to a network: what each is, how it is trained, what is measured on it."""
