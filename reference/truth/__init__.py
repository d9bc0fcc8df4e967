"""What is right: the exact values, torch beside them, and how far from them is too far."""
