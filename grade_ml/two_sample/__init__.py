"""Whether two samples come from the same world; nothing here knows what a course is."""
