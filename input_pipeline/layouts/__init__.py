"""How the owners of data sets lay their files out: one reader for each."""
