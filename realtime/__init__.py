"""The log reader, the hub and the sessions. No HTTP and no database driver in here."""
