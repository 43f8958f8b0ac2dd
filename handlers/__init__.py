"""The edge: turns HTTP requests and frames into validated values, and results into bytes."""
