"""`lpnsr-serve`: upscaling over HTTP, and a web page for it. Needs the extra `serve`."""
