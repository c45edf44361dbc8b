"""Fetch a checkpoint, from the Hugging Face hub or a local path, and convert it once to safetensors and JSON."""
