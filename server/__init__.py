"""The composition root: settings, wiring, middleware, logs, metrics and the embedded services."""
