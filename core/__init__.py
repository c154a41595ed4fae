"""Words and rules that every part of Textmill shares. Imports neither torch nor SQL."""
