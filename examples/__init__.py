"""One file for each way to extend distill; ``docs/extending.md`` walks through them."""
