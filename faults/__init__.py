"""`make faults`: kill any part under load and see that nothing acknowledged is lost, doubled or reordered."""
