"""Transform codecs: factorized prior, scale hyperprior, mean and scale hyperprior."""
