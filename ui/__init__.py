"""What people touch: the command line, and later the chat page and the server."""
