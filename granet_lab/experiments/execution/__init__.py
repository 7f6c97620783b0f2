"""Who does the work: what is missing goes in packs to processes, GPUs or clusters."""
