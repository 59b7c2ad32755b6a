"""Files for llama.cpp: blocks of integers, the tokenizer's part, and the target."""
