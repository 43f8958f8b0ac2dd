"""`make faults`: breaks one part after another under load, and judges what clients were promised. See docs/faults.md.

Nothing here imports the server: what judges it knows only its public contract.
"""
