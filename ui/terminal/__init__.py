"""A chat in the terminal: what is typed, what it means, and what is shown."""
