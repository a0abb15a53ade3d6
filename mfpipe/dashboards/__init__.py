"""Pages that show fits and models in a browser."""
