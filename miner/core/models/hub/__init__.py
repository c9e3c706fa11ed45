"""Download from the Hugging Face hub."""
