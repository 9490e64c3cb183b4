"""Pictures as files: reading, writing, metadata, transparency, colours."""
