"""Token by token generation for many rows at once; ``requests`` is its face, ``loop`` its heart."""
