"""The world around the students: eight sources behind one protocol, stored point-in-time.

`protocol` defines what a source is, one module per source fetches it, `client` is their client of
HTTP, `collect` runs them side by side, `store` stores their observations and when these could be
known, `features` reads from that what was known on a day. Nothing here knows the gradebook.
"""
