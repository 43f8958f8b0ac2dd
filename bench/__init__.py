"""Speed measured as ratios: Parley, its peers and the floors below them, in one run on one machine."""
