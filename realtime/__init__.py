"""The realtime core: the log as read by one instance, and the sessions that follow it.

``codec`` turns events into bytes; ``ring`` keeps the newest; ``log`` follows the log; ``views`` says what a user may
read; ``session`` is a cursor moving over a transport; ``hub`` moves all of them. None of it knows HTTP, SQL or a rule
of the product, so all of it runs in tests under a fake log.
"""
