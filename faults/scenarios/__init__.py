"""One fault a file: `run(stage, traffic, rng, scale)` brings it while traffic flows, and leaves all repaired."""
