"""All reading, writing and drawing of files."""
