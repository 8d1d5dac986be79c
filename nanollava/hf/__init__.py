"""Hugging Face files: configs, tensor names, shards and strict loading."""
