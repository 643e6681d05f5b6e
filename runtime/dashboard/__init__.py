"""Dashboard: the emotion stream as a web page; a subscriber like any other, in a process of its own."""
