"""What other libraries keep to themselves and we need all the same: one file a library, each contract with a test."""
