"""What people are told of: when something begins to be wrong, and when it is over."""
