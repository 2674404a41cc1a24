"""What the UI shows of a domain result: metadata, tables, pictures, check results."""
