"""The command: names and exit codes, and a file for each command or for two that differ in a word."""
