"""What a call may be given, stated once: rules for torch and for NumPy, and noise and how it is drawn."""
