"""llama.cpp: engines of its own, models, chat templates."""
