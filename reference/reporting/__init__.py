"""How a verdict looks: its data, as text, as JSON, as a picture, as a script to paste."""
