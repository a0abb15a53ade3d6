"""What this process has published so far, for the last words of a command that is interrupted."""

published: list[str] = []
