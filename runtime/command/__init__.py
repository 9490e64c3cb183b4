"""`lpnsr-run`: what it takes, what it does with many pictures, what it says."""
