"""What keeps an installation in order for years: what runs used, what may go, how well it is."""
