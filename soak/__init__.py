"""`make soak`: minutes of mixed traffic and constant reconnects, and what the servers still hold afterwards."""
