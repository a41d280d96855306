"""The LLM, its tokenizer and the prompt around the speech."""
