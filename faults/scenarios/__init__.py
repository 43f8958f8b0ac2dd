"""One fault a file: `async def run(stage, traffic, rng, scale)` brings it while traffic flows, and leaves all repaired."""
