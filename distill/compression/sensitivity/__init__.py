"""What each layer minds: scanned, shown, and turned into what each should give."""
