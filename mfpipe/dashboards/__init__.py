"""Pages to watch: thin ones, over figures and what the store keeps."""
