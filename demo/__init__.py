"""A scripted minute in the terminal: two instances, three transports, a kill -9, and the proof that nothing was lost.

`make demo` runs it. Everything it shows is measured on the instances it starts; see docs/demo.md.
"""
