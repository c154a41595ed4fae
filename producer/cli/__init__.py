"""The console command ``textmill``: one file per noun over the library."""
