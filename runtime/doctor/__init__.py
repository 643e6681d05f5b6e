"""Doctor: looks for what keeps a session from running well, and says how to mend it."""
