"""What it measures up to, side by side; each is started by make."""
