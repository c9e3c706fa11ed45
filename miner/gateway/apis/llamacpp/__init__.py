"""llama.cpp's own routes, as llama-server has them."""
