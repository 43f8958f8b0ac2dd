"""SQL and Redis commands: one store per entity. A store takes a connection and never commits."""
