"""The OpenAI API as vLLM, llama.cpp and others speak it."""
