"""Alerts: a notice is sent when something begins to be wrong, and another when it is over.

`conditions.record` records what began and what is over, in the caller's transaction;
`outbox.deliver` sends the notices after that transaction is committed, and repeats each until its
channel has taken it.
"""
