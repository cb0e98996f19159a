"""What the daemon needs of an operating system, on Linux."""
