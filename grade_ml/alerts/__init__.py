"""What people are told of: when something begins to be wrong, and when it is over.

`conditions.record` writes down what began and what is over, in the caller's transaction;
`outbox.deliver` sends it after that transaction is committed, again and again until each channel
has taken it.
"""
