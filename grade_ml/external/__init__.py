"""The world around the students: eight sources behind one protocol, kept point-in-time.

`protocol` says what a source is, one module per source fetches it, `client` is how any of them
speaks HTTP, `collect` runs them side by side, `store` keeps what they said and when it could be
known, `features` reads from that what was known on a day. Nothing here knows the gradebook.
"""
