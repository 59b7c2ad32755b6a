"""The contracts between the rooms."""
