"""The exact laws: closed, discrete, of the means alone."""
