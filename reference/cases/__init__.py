"""What is tried: cases and their arrays, what of them a subject takes, designed ones and random ones."""
