"""Where teachers and students come from, and the folder in which a student is saved."""
