"""`lpnsr-run`: its arguments, its pipeline for many pictures, its messages."""
