"""Transform codecs: factorized prior, scale hyperprior, mean and scale hyperprior; see docs/guides/codecs.md."""
