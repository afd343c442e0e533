"""What a call may be given, stated once: rules, their torch and NumPy sides, noise and how it is drawn."""
