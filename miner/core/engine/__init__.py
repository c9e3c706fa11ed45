"""llama.cpp engines: supervised child processes, their pool and its scheduling."""
