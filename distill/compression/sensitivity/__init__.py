"""How sensitive each layer is: scanned, shown, and turned into what each should give."""
