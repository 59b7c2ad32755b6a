"""What ``distill`` can do: a file for each command, or for two that differ in a word."""
