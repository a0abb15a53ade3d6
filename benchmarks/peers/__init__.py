"""The packages compared with: one script each, which runs in that package's own environment."""
