"""Secrets: how tokens are made and read, and how passwords are kept."""
