"""Tests, by kind: unit, integration, acceptance, property, faults, browser."""
