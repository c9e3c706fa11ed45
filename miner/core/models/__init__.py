"""Model files: names, directories, headers, memory, download."""
