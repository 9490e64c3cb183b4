"""`lpnsr-bulk`: a plan of shards, workers on many machines, an account of every picture."""
