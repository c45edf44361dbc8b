"""The leads by name, in the spellings that files have."""
