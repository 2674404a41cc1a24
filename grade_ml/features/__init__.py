"""What was known on a day, as numbers a model can read; nothing is learned or predicted here."""
